"""Every error that training raises on purpose, as one tree; export's (RunError, TargetError) pass through it.

TrainingError
└── BackboneError    no such backbone, or its pretrained weights are missing or not what its card says
"""


class TrainingError(Exception):
    """The root of all errors that training raises on purpose."""


class BackboneError(TrainingError):
    """No such backbone, or its pretrained weights are missing or not what its card says."""
