"""The names of the classes that backbones were pretrained on; knows no backbone."""

from timm.data.imagenet_info import ImageNetInfo

_AMBIGUOUS = {
    "n02012849": "crane (bird)",
    "n03126707": "crane (machine)",
    "n03710637": "maillot (tights)",
    "n03710721": "maillot (swimsuit)",
}


def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 names of ImageNet-1k in the order of its synset ids, all different.

    A name is the first of WordNet's words for the class ("tench", not "tench, Tinca tinca"). Two pairs of classes share
    that word, and WordNet's definitions tell them apart: it follows in brackets what kind of crane or maillot is meant.
    """
    info = ImageNetInfo()
    synsets = [info.index_to_label_name(index) for index in range(1000)]
    return tuple(
        _AMBIGUOUS.get(each) or _first_word(info.label_name_to_description(each, detailed=False)) for each in synsets
    )


def no_labels() -> tuple[str, ...]:
    """Of a backbone that was pretrained without classes, or whose classes are not known."""
    return ()


def _first_word(words: str) -> str:
    return words.split(",", maxsplit=1)[0]
