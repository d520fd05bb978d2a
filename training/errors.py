"""Every error that training raises on purpose, as one tree; export's (RunError, TargetError) pass through it.

TrainingError
├── BackboneError    no such backbone, or its pretrained weights are missing or not what its card says
├── FrozenError      what was to stay as it was pretrained has changed
├── CacheError       the cache cannot be read or written
├── HeadError        no head can be trained as it was asked for
└── TuningError      fine-tuning cannot begin or go on as it was planned
    ├── ExplodedError    the loss has become many times what it was, or no number
    └── CheckpointError  a checkpoint cannot be written, read, or belongs to another training
"""


class TrainingError(Exception):
    """The root of all errors that training raises on purpose."""


class BackboneError(TrainingError):
    """No such backbone, or its pretrained weights are missing or not what its card says."""


class FrozenError(TrainingError):
    """What was to stay as it was pretrained has changed."""


class CacheError(TrainingError):
    """The cache cannot be read or written."""


class HeadError(TrainingError):
    """No head can be trained as it was asked for."""


class TuningError(TrainingError):
    """Fine-tuning cannot begin or go on as it was planned."""


class ExplodedError(TuningError):
    """The loss of a training has become many times what it was, or no number."""


class CheckpointError(TuningError):
    """A checkpoint cannot be written, read, or belongs to another training."""
