"""Python values to request messages and response messages to answers; sends nothing and knows no server."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, get_args

import grpc
import numpy as np
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from numpy.typing import NDArray

from vertebra.client.answers import (
    Analysis,
    Answer,
    Backbone,
    Classification,
    CropGeometry,
    Embedding,
    Label,
    ModelDescription,
    ModelSummary,
    Output,
    Response,
    ServedModel,
    Timing,
)
from vertebra.client.errors import AnswerError, ImageError
from vertebra.v1 import bundle_pb2, vision_pb2

# The path of an image file, the bytes of one, or decoded pixels: uint8 [H, W, 3] in RGB order, upright.
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]
