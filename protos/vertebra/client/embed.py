"""The embeddings of all images of a folder, into one file, going on where an earlier run stopped; prints nothing."""

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import grpc

from vertebra.client import embeddings
from vertebra.client.answers import ServedModel
from vertebra.client.embeddings import Embeddings
from vertebra.client.errors import FolderError, ImageError
from vertebra.client.files import image_files
from vertebra.client.part import Part
from vertebra.client.sync import Client


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image that has no embedding, and why."""

    file: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        out: The file.
        images: How many embeddings are in it.
        resumed: How many of them an earlier run had asked for.
        failed: The images without one.
    """

    out: str
    model: ServedModel
    images: int
    resumed: int
    failed: tuple[FailedImage, ...]


def part_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def embed(
    client: Client,
    folder: Path,
    out: Path,
    *,
    model: str,
    version: int,
    progress: Callable[[int, int], None],
) -> Written:
    """Ask for the embeddings of all images below a folder, and write them into one file.

    What was answered is in `<out>.part` until the file is written: another run asks for the rest. The part stays where
    an image failed for a reason that may pass, too.

    Args:
        client: Asks the server.
        folder: Holds the images; hidden files and folders, and files that are no images by their name, are passed over.
        out: The file, .npz or .parquet. One that exists is replaced.
        model: The model's name; "" where the server has one.
        version: The model's version, 0 for the served one. Embeddings of different spaces are never mixed.
        progress: Told how many images of how many are done, of those that are asked for.

    Returns:
        What was written.

    Raises:
        FolderError: There is no image in the folder.
        OutputError: The file or its part cannot be written, or the part lies in another space.
        VertebraError: The server answers no more; see vertebra.client.errors.
        OSError: The folder cannot be read.
    """
    embeddings.check(out)
    files = sorted(Path(each).relative_to(folder.absolute()).as_posix() for each in image_files(str(folder.absolute())))
    if not files:
        raise FolderError(f"Expected at least one image in {folder}. Received: none.")
    found = client.get_model(model, version=version).model
    served = ServedModel(found.name, found.version, found.embedding_space_id)
    with Part(part_of(out), served.embedding_space_id) as part:
        stats, errors = examined(folder, files)
        wanted = [file for file in stats if not part.holds(file, stats[file])]
        progress(0, len(wanted))
        results = client.embed_stream(
            (folder / file for file in wanted),
            model=served.name,
            version=version,
            expected_embedding_space_id=served.embedding_space_id,
        )
        with closing(results):
            for done, (file, result) in enumerate(zip(wanted, results, strict=True), start=1):
                if isinstance(result, ImageError):
                    errors[file] = result
                else:
                    part.add(file, stats[file], result.vector)
                    served = result.model
                progress(done, len(wanted))
        errors = {file: errors[file] for file in files if file in errors}
        answered = [file for file in files if file not in errors]
        reasons = {file: error.message for file, error in errors.items()}
        embeddings.write(out, Embeddings(served, answered, part.vector, reasons))
    # Whoever mends what was broken changes the file; what was merely not answered is worth asking for again.
    if all(error.code is grpc.StatusCode.INVALID_ARGUMENT for error in errors.values()):
        part.file.unlink(missing_ok=True)
    failed = tuple(FailedImage(file, error.code.name, error.message) for file, error in errors.items())
    return Written(str(out), served, len(answered), len(stats) - len(wanted), failed)


def examined(folder: Path, files: Sequence[str]) -> tuple[dict[str, os.stat_result], dict[str, ImageError]]:
    """The files that can be asked about, as they are now, and why the others cannot: a pipe would be read for ever."""
    stats: dict[str, os.stat_result] = {}
    errors: dict[str, ImageError] = {}
    for index, file in enumerate(files):
        try:
            found = os.stat(folder / file)
            reason = "" if stat.S_ISREG(found.st_mode) else "Expected a file. Received: something else."
        except OSError as error:
            reason = str(error.strerror)
        if reason:
            errors[file] = ImageError(index, grpc.StatusCode.INVALID_ARGUMENT, reason)
        else:
            stats[file] = found
    return stats, errors
