"""torchvision's data sets for classification, by the names of their classes; does not know where their files end up."""

import inspect
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torchvision
from PIL import Image
from torchvision import datasets

from export.errors import DataError
from training.architectures.published import patience
from training.named.collection import Collection, Entry, blaming

_Calls: TypeAlias = Mapping[str, Mapping[str, object]]  # by split, how its constructor is told of it
_WRITABLE = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}  # the modes of Pillow that PNG can hold
_HALVES: _Calls = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: _Calls = {"all": {}}


def _splits(*names: str) -> _Calls:
    return {name: {"split": name} for name in names}


# Named, because neither a signature nor a class says which splits there are, nor that images have one label each.
SETS: Mapping[str, _Calls] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS"), _HALVES),
    **dict.fromkeys(("Food101", "GTSRB", "STL10", "StanfordCars", "SVHN"), _splits("train", "test")),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"), _splits("train", "val", "test")),
    **dict.fromkeys(("CLEVRClassification", "Imagenette"), _splits("train", "val")),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), _WHOLE),
    "Country211": _splits("train", "valid", "test"),
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "Places365": {"train": {"split": "train-standard"}, "val": {"split": "val"}},
}


class _Pairs(Protocol):
    """What torchvision makes: images, or by our loader the bytes of their files, each with the number of its class."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int) -> tuple[Image.Image | bytes, Any]: ...


@dataclass(frozen=True)
class _Part:
    name: str
    pairs: _Pairs
    classes: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Entry]:
        for place in range(len(self.pairs)):
            with blaming(f"torchvision to read image {place} of {self.name}"):
                picture, target = self.pairs[place]
                entry = _encoded(picture), self._label(target)
            yield entry

    def _label(self, target: Any) -> str | None:
        if target is None or (number := int(target)) < 0:
            return None
        return str(number) if self.classes is None else self.classes[number]


def check(name: str) -> None:
    """Raise DataError where torchvision has no data set of this name whose images have one label each."""
    if name not in SETS:
        raise DataError(
            f"Expected one of torchvision's data sets {', '.join(sorted(SETS, key=str.lower))}. Received: {name}."
        )


def collection(name: str, brought: Path, fetched: Path, download: bool) -> Collection:
    """Open a data set, and fetch it first where that is allowed and needed.

    Args:
        name: One of SETS.
        brought: The folder where a person may have laid its files, as torchvision lays them.
        fetched: The folder to fetch it to.
        download: Whether it may be fetched.

    Returns:
        The data set. Images are the bytes of their files where torchvision gives these, else PNG.

    Raises:
        DataError: There is no such data set, or it is not there, or cannot be fetched or read.
    """
    check(name)
    try:
        return _opened(name, brought, download=False)
    except DataError as error:
        if not download:
            raise DataError(f"{error}. Allow its download with --download, or lay its files into {brought}.") from error
    with patience():
        return _opened(name, fetched, download=True)


def _opened(name: str, root: Path, download: bool) -> Collection:
    how = f"torchvision to fetch {name}" if download else f"torchvision's {name} in {root}"
    kind = getattr(datasets, name)
    # Else they would be decoded, and a photograph is five times as large as PNG.
    loader = {"loader": _read} if "loader" in inspect.signature(kind).parameters else {}
    with blaming(how):
        made = {split: kind(root, download=download, **call, **loader) for split, call in SETS[name].items()}
    return Collection(
        library=f"torchvision {torchvision.__version__}",
        version=None,
        parts={split: _Part(name, pairs, _classes(pairs)) for split, pairs in made.items()},
    )


def _classes(pairs: object) -> Sequence[str] | None:
    """The names of the classes; None where they are known by their numbers alone."""
    found = getattr(pairs, "classes", None) or getattr(pairs, "categories", None)
    # Imagenette has several names for each.
    return found and [", ".join(each) if isinstance(each, tuple) else each for each in found]


def _read(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def _encoded(picture: Image.Image | bytes) -> bytes:
    if isinstance(picture, bytes):
        return picture
    buffer = io.BytesIO()
    (picture if picture.mode in _WRITABLE else picture.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()
