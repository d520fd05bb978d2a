"""Which files of a folder are images, by their names; does not look into them."""

import os
from collections.abc import Iterator
from pathlib import Path

# What a person means as an image, whether the server can read it or not.
SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".tif", ".tiff",
}  # fmt: skip
PASSED_OVER = {"__MACOSX"}  # what zip files made on a Mac bring along


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return Path(name).suffix.lower() in SUFFIXES


def is_looked_at(name: str) -> bool:
    """Whether a file or folder is neither hidden nor what a zip file brings along."""
    return not name.startswith(".") and name not in PASSED_OVER


def image_files(folder: str) -> Iterator[str]:
    """The image files in a folder and all below it, in no order; OSError where something cannot be read."""
    # A link that leads back above the class would bring in all the others.
    seen = {os.path.realpath(each) for each in Path(folder).absolute().parents}
    for path, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(path)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [each for each in folders if is_looked_at(each)]
        yield from (os.path.join(path, each) for each in files if is_image(each) and is_looked_at(each))


def _refuse(error: OSError) -> None:
    # os.walk() passes over what it cannot read, and the images in it would be missing without a word.
    raise error
