"""What a library gives when it is asked for a data set by its name; knows neither library nor files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from export.errors import DataError

Entry: TypeAlias = tuple[bytes, str | None]  # an encoded image, and its class where one is said


class Part(Protocol):
    """One split, read anew whenever it is iterated over; raises DataError for what cannot be read."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Entry]: ...


@dataclass(frozen=True)
class Collection:
    """A data set that can be read.

    Attributes:
        library: Whose it is, and of which version.
        version: What the library calls the version of the data; None where it has no word for it.
        parts: The splits, as the library calls them.
    """

    library: str
    version: str | None
    parts: Mapping[str, Part]


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Raise DataError for whatever a library raises while the block runs.

    Args:
        what: What is expected of the library, for the message.

    Yields:
        Nothing.

    Raises:
        DataError: It says what was expected, and what the library said.
    """
    try:
        yield
    except DataError:
        raise
    # Archives, pickles, servers, parsers of a dozen formats: there is no list of what these raise.
    except Exception as error:
        raise DataError(f"Expected {what}. Received: {type(error).__name__}: {error}") from error
