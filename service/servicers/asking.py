"""What every call does that asks a model: within which limits, which model, until when; knows no answer's message."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from service.call import current_call
from service.errors import DeadlinePassed
from service.predictor import Analysis, Question
from service.repository import Ready, Repository
from vertebra.v1 import vision_pb2


@dataclass(frozen=True)
class RequestLimits:
    """What is refused before anything is looked at.

    Attributes:
        max_images: The most images in a request.
        max_bytes: The most bytes in a request.
        default_deadline_s: How long a caller who names no deadline waits.
    """

    max_images: int
    max_bytes: int
    default_deadline_s: float


def find(repository: Repository, selector: vision_pb2.ModelSelector) -> Ready:
    """The model that a caller asks for, noted down as the call's; raises what Repository.find and Model.ready do."""
    model = repository.find(selector.name)
    call = current_call.get()
    call.model, call.version = model.name, model.version
    return model.ready(selector.version, selector.expected_embedding_space_id)


async def ask(ready: Ready, question: Question, clock: Callable[[], float]) -> Analysis:
    """Ask a model, and wait no longer than the question's deadline.

    Args:
        ready: The model.
        question: The question.
        clock: Monotonic seconds; the same as the deadline's.

    Returns:
        What Predictor.analyze returns; it raises what that raises.

    Raises:
        DeadlinePassed: There is no answer by then.
    """
    try:
        async with asyncio.timeout(max(0.0, question.deadline_s - clock())) as timeout:
            return await ready.predictor.analyze(question)
    except TimeoutError as error:
        if not timeout.expired():
            raise
        raise DeadlinePassed("Expected an answer within the deadline. Received: none yet.") from error
