"""The books of one stream: which images are on their way, whose answer is due, and whether to go on after an error.

Knows neither threads nor gRPC calls: sync_stream.py and aio_stream.py keep these books, each in its own way.
"""

import time
from collections import deque
from collections.abc import Callable

import grpc

from vertebra.client import messages, retry
from vertebra.client.answers import ServedModel, StreamedEmbedding
from vertebra.client.errors import AnswerError, DeadlineExceeded, ImageError, RpcError, VertebraError
from vertebra.client.messages import ImageSource
from vertebra.v1 import vision_pb2

# How many images may be taken and not yet handed back. A server reads at most half of its queue from one stream, which
# is as many unless it was set otherwise.
LOOK_AHEAD = 64

# How long a call may take to end when all is answered. Whoever does not wait for it is counted as gone.
ENDING_S = 1.0

Result = StreamedEmbedding | ImageError


class Ledger:
    """Everything that is known of one stream of images, over all the calls that it takes.

    Args:
        selector: Names the model.
        deadline_s: How long the server may leave images that it was sent without any answer, in seconds.
        clock: Monotonic seconds.

    Attributes:
        complete: Whether no more images will be taken.
    """

    def __init__(
        self, selector: vision_pb2.ModelSelector, deadline_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.complete = False
        self._failure: BaseException | None = None
        self._selector = selector
        self._deadline_s = deadline_s
        self._clock = clock
        self._model: ServedModel | None = None
        self._sources: dict[int, ImageSource] = {}  # taken and not answered
        self._unsent: deque[int] = deque()
        self._settled: dict[int, Result | Exception] = {}  # answered and not handed back
        self._taken = 0
        self._handed_back = 0
        self._since_s = 0.0  # when the last answer came, or when the server was asked after it had nothing to do
        self._told_s: float | None = None  # the server's last word on when to come again
        self._alone = -1  # the images up to this one are sent one at a time

    @property
    def has_room(self) -> bool:
        """Whether another image may be taken."""
        return self._taken - self._handed_back < LOOK_AHEAD

    @property
    def has_unsent(self) -> bool:
        """Whether there is an image to be sent now."""
        if not self._unsent:
            return False
        return self._unsent[0] > self._alone or len(self._unsent) == len(self._sources)

    @property
    def is_all_sent(self) -> bool:
        """Whether no image will be sent any more, unless this call fails."""
        return self.complete and not self._unsent

    @property
    def is_settled(self) -> bool:
        """Whether every image has been handed back and no more will be taken."""
        return self.complete and self._handed_back == self._taken

    def take(self, source: ImageSource) -> None:
        """Enter the next image."""
        if not self._sources:
            self._since_s = self._clock()
        self._sources[self._taken] = source
        self._unsent.append(self._taken)
        self._taken += 1

    def end(self, failure: BaseException | None = None) -> None:
        """No more images will be taken, perhaps because of an error, which is raised after all answers."""
        self.complete = True
        self._failure = failure

    def begin_again(self) -> None:
        """Get ready for another call: what was not answered is sent again, and the embedding space is kept to."""
        self._unsent = deque(sorted(self._sources))
        if self._model is not None:
            self._selector.expected_embedding_space_id = self._model.embedding_space_id

    def send(self) -> tuple[int, ImageSource]:
        """The next image that is to be sent, and its tag."""
        tag = self._unsent.popleft()
        return tag, self._sources[tag]

    def request(self, tag: int, source: ImageSource) -> vision_pb2.EmbedStreamRequest:
        """The message of an image. Reads the file, and changes nothing: it may be called beside everything else.

        The model goes with each message, although the first would do: which one that is, is nobody's business here.
        """
        return vision_pb2.EmbedStreamRequest(model=self._selector, tag=tag, image=messages.image(source))

    def fail(self, tag: int, error: Exception) -> None:
        """Enter that there is no message of an image. A file's error is the image's, any other one the caller's."""
        if isinstance(error, OSError):
            reason = f"{error.filename}: {error.strerror}"
            error = ImageError(tag, grpc.StatusCode.INVALID_ARGUMENT, reason)
        # It may have been answered meanwhile, when it was sent once more.
        if tag in self._sources:
            self._settle(tag, error)

    def answer(self, response: vision_pb2.EmbedStreamResponse) -> None:
        """Enter an answer.

        Args:
            response: The server's message.

        Raises:
            AnswerError: It answers no image that was asked about, or is none.
        """
        if response.HasField("model"):
            self._model = messages.served_model(response.model)
        if response.tag not in self._sources or self._model is None:
            raise AnswerError(f"Expected the tag of an image that was sent. Received: {response.tag}.")
        self._settle(response.tag, messages.streamed(response, self._model))
        self._since_s = self._clock()
        self._told_s = None

    def hand_back(self) -> Result | None:
        """The next result in the order of the images, if it is there; raises what is wrong with an image's type."""
        result = self._settled.pop(self._handed_back, None)
        if result is not None:
            self._handed_back += 1
        if isinstance(result, Exception) and not isinstance(result, ImageError):
            raise result
        return result

    def left_s(self) -> float | None:
        """How long to wait for the next answer; None where none is due."""
        return max(0.0, self._since_s + self._deadline_s - self._clock()) if self._sources else None

    def check_left(self) -> None:
        """Raise DeadlineExceeded where the server leaves images without an answer for too long."""
        if self.left_s() == 0.0:
            raise DeadlineExceeded(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"Expected an answer within {self._deadline_s:g} s. Received: none to {len(self._sources)} images.",
            )

    def check_end(self) -> None:
        """Raise what the images ended with, where it was an error."""
        if self._failure is not None:
            raise self._failure

    def wait_s(self, error: VertebraError | None) -> float:
        """How long to wait before what was not answered is sent again.

        Args:
            error: How the call ended; None where it ended well.

        Returns:
            Seconds.

        Raises:
            AnswerError: The call ended well, and left images without an answer.
            VertebraError: The error, where trying again is of no use.
        """
        if error is None:
            raise AnswerError(f"Expected an answer for each image. Received: an end, and none to {len(self._sources)}.")
        if not isinstance(error, RpcError):
            raise error
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after_s is None:
            return self._single_out(error)
        # Who was told to come again finds nobody for a while: the server is being started anew.
        self._told_s = self._told_s if error.retry_after_s is None else error.retry_after_s
        left_s = self.left_s()
        # Where nothing is due the next image will have the whole deadline.
        wait_s = retry.wait_s(error.code, self._told_s, self._deadline_s if left_s is None else left_s)
        if wait_s is None:
            raise error
        return wait_s

    def _single_out(self, error: RpcError) -> float:
        """Find the image that the server's transport takes for too large: that ends the call and does not name it."""
        sent = sorted(self._sources.keys() - set(self._unsent))
        if len(sent) == 1:
            self._settle(sent[0], ImageError(sent[0], error.code, error.message))
        elif not sent:
            raise error
        else:
            self._alone = sent[-1]
        return 0.0

    def _settle(self, tag: int, result: Result | Exception) -> None:
        del self._sources[tag]
        if tag in self._unsent:
            self._unsent.remove(tag)
        self._settled[tag] = result
