"""What came of a fine-tuning, as it is kept beside the model; does not compute any of it."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from export.document import Document
from training.convergence import Convergence
from training.tuning.plan import Plan, Precision
from training.tuning.validation import Score


class Pace(Document):
    """One way to compute a step, as it was measured before the first one.

    Attributes:
        precision: Of the arithmetic; the weights are kept as fp32.
        channels_last: Whether the numbers of a cell lie side by side.
        images_per_s: Forward and back.
        cosine: Between its gradient and that of plain fp32.
        refused: Why it was not taken although it was faster; None where nothing speaks against it.
    """

    precision: Precision
    channels_last: bool
    images_per_s: float
    cosine: float
    refused: str | None


class RangeTest(Document):
    """Losses at rising learning rates, and the rate that was read from them.

    Attributes:
        rates: The rate of each step.
        losses: What the loss would be before each step if all batches were alike, smoothed.
        harmless: The rate at which the loss, having fallen, was again what it was before the first step; None where it
            never fell, or never rose again.
        diverged: The rate at which the loss had become many times the lowest; None where it never had.
        chosen: The harmless one, at most a tenth of the diverged one; where the loss exploded at it, what was left of
            it when it did not.
        lowered: How often the loss exploded.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    harmless: float | None
    diverged: float | None
    chosen: float
    lowered: int = 0


class Known(Document):
    """What was measured before a training, which does not measure it again.

    Attributes:
        tested: What a range test saw, of a part of the images or of a plan that trains more; None where it is to be
            done.
        paces: How fast each way of computing a step is; None where it is to be measured.
    """

    tested: RangeTest | None = None
    paces: tuple[Pace, ...] | None = None


NOTHING_KNOWN = Known()


class Settings(Document):
    """What a plan left open, as it was decided on this machine; a resumed training keeps it.

    Attributes:
        precision: As Plan has it, like the two below.
        channels_last: See above.
        compile: See above.
        paces: What was measured to decide; empty where the plan left nothing open.
        rate: The learning rate of the last part and the head.
        rate_rule: Where it comes from: "recipe/10", "recipe", "range test" or "asked for".
        range_test: What the range test saw, where one decided.
        notes: What a person should know, in plain words.
    """

    precision: Precision
    channels_last: bool
    compile: bool
    paces: tuple[Pace, ...]
    rate: float
    rate_rule: Literal["recipe/10", "recipe", "range test", "asked for"]
    range_test: RangeTest | None
    notes: tuple[str, ...]


class Epoch(Document):
    """What one epoch brought: the mean loss while it trained, and the score after it; None without validation."""

    number: int
    loss: float
    score: Score | None
    seconds: float


class Refit(Document):
    """What came of fitting the head anew to the backbone as the training left it.

    Attributes:
        images: How many images it was fitted to: a part of very many.
        features: How many numbers it reads of each, of all taps.
        convergence: How its solver ended.
        before: The score of the head that was fine-tuned; None without validation, like the next.
        after: That of the new one.
        kept: Whether the new one is the model's: where it was no worse, and where nothing could say.
    """

    images: int
    features: int
    convergence: Convergence
    before: Score | None = None
    after: Score | None = None
    kept: bool = True


class Record(Document):
    """How a fine-tuning went.

    Attributes:
        plan: What was asked for.
        settings: What was decided on this machine.
        steps: How many there were to be in all; fewer were done where it stopped early.
        history: The epochs that were done.
        start: The score before the first step; None without validation.
        best: The number of the epoch whose weights were kept, from 0; None where those of the start were.
        stopped_early: Whether validation ended it.
        frozen_sha256: Digest of every tensor that was not to change; it was the same before and after each epoch.
        notes: What a person should know, in plain words.
        seconds: Of all processes that worked on it one after the other.
        refit: What came of refitting the head after that; None where that was not asked for.
    """

    plan: Plan
    settings: Settings
    steps: int
    history: tuple[Epoch, ...]
    start: Score | None
    best: int | None
    stopped_early: bool
    frozen_sha256: str
    notes: tuple[str, ...]
    seconds: float
    refit: Refit | None = None


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned model.

    Attributes:
        state: Every tensor of the model, on the CPU, by the names that training.served.Served has for them.
        trained: Those that the training may have changed; none where the start was kept.
        record: How it went.
    """

    state: dict[str, Tensor]
    trained: tuple[str, ...]
    record: Record
