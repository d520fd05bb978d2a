"""Every error of the service's domain, as one tree; knows no gRPC code (status.py has the table).

    VertebraError
    ├── BadRequest         the request as a whole is malformed or over a limit
    ├── BadImage           one image cannot be used; its neighbours can
    ├── NotFound           no such model or version
    ├── SpaceMismatch      the model answers in another embedding space than the one expected
    ├── Refused            may succeed later; says when to try again, where that is known
    │   ├── Overloaded     no room in the queue
    │   │   └── MemoryFull     no room for its bytes or pixels
    │   └── NotReady       starting, draining, an engine is being replaced, or the model failed to load
    ├── DeadlinePassed     the deadline passed while the request waited
    │   └── DeadlineUnreachable  it would have: refused before any work
    ├── EngineFailed       the engine raised on this image's batch
    ├── BundleError        a bundle is incomplete, changed, or fails its golden proof
    └── ProviderMissing    the provider asked for does not work here; never reaches a caller

A message says what was expected and what was received: it is sent to the caller as it stands.
"""


class VertebraError(Exception):
    """The root of all errors that the service raises on purpose.

    Args:
        message: What was expected and what was received.
        retry_after_s: When to try again, in seconds from now; None where trying again is of no use.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BadRequest(VertebraError):
    """The request as a whole is malformed or over a limit."""


class BadImage(VertebraError):
    """One image cannot be used; its neighbours can."""


class NotFound(VertebraError):
    """No such model or version."""


class SpaceMismatch(VertebraError):
    """The model answers in another embedding space than the one that the caller expects."""


class Refused(VertebraError):
    """May succeed later."""


class Overloaded(Refused):
    """No room in the queue."""


class MemoryFull(Overloaded):
    """No room for its bytes or pixels."""


class NotReady(Refused):
    """Starting, draining, its engine is being replaced, or the model failed to load."""


class DeadlinePassed(VertebraError):
    """The deadline passed while the request waited."""


class DeadlineUnreachable(DeadlinePassed):
    """The deadline would have passed before the answer: refused before any work."""


class EngineFailed(VertebraError):
    """The engine raised on this image's batch; the cause is in the log."""


class BundleError(VertebraError):
    """A bundle is incomplete, changed, or fails its golden proof."""


class ProviderMissing(VertebraError):
    """The provider asked for does not work here: a library, driver or device is missing. Never reaches a caller."""
