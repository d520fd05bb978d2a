"""Writes a folder whole or not at all; knows nothing of what is in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from export.errors import TargetError


def refuse_existing(target: Path) -> None:
    """Raise TargetError where `target` exists: asked before hours of work, and again when it ends."""
    if target.exists():
        raise TargetError(f"Expected a folder that does not exist yet. Received: {target}, which does.")


def remove(folder: Path) -> None:
    """Remove a folder, so that nobody ever finds a part of it by its name."""
    gone = folder.with_name(f".{folder.name}-{uuid4().hex}")
    with suppress(OSError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a folder, which has no folders in it, to one that does not exist yet."""
    target.mkdir()
    # shutil's errors name the source, too, or are lists; where there is no room, `staged` says for what.
    for each in sorted(source.iterdir()):
        (target / each.name).write_bytes(each.read_bytes())


@contextmanager
def staged(target: Path, beside: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends and vanishes when the block raises.

    Args:
        target: What the folder becomes, by one rename. It must not exist.
        beside: Where the folder lies until then, on the file system of `target`. Its name begins with a dot, and
            readers pass over such names.

    Yields:
        The folder, empty.

    Raises:
        TargetError: The target exists.
        OSError: There is no room, or no right to write there; the error names the target.
    """
    refuse_existing(target)
    folder = beside / f".{target.name}-{uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
        refuse_existing(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    except OSError as error:
        # A write that finds no room does not say where.
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise
    # Whatever ends the block, Ctrl-C too; after the rename there is nothing left to remove.
    finally:
        shutil.rmtree(folder, ignore_errors=True)
