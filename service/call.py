"""What is known of the call that the current task answers, for its log lines and metrics; decides nothing."""

from contextvars import ContextVar
from dataclasses import dataclass

import grpc

from service.metrics import UNKNOWN


@dataclass
class Call:
    """One call.

    Attributes:
        request_id: The caller's, or one of ours.
        model: The name of the model that answers, once it has been found.
        version: Its version.
        code: How it ended.
    """

    request_id: str
    model: str = UNKNOWN
    version: int = 0
    code: grpc.StatusCode = grpc.StatusCode.OK


current_call: ContextVar[Call] = ContextVar("current_call")
