"""Every error that export raises on purpose, as one tree; the service's own (BundleError, BadImage) pass through it.

ExportError
├── DataError       labelled images are not what they must be: nothing there, one class, files that cannot be read
├── RunError        a folder is no run, or was changed since it was written
├── ProgramError    the program of a run is missing, stale, or of another torch
├── GraphError      the ONNX graph is not what a bundle promises
├── GoldenError     the golden images are too few, or one cannot be read
├── Disagreement    the graph does not answer as the trained model does
└── TargetError     what is to be written exists already, or has a name that cannot be used
"""


class ExportError(Exception):
    """The root of all errors that export raises on purpose."""


class DataError(ExportError):
    """Labelled images are not what they must be: nothing there, one class, files that cannot be read."""


class RunError(ExportError):
    """A folder is no run, or was changed since it was written."""


class ProgramError(ExportError):
    """The program of a run is missing, stale, or of another torch."""


class GraphError(ExportError):
    """The ONNX graph is not what a bundle promises."""


class GoldenError(ExportError):
    """The golden images are too few, or one cannot be read."""


class Disagreement(ExportError):
    """The graph does not answer as the trained model does."""


class TargetError(ExportError):
    """What is to be written exists already, or has a name that cannot be used."""
