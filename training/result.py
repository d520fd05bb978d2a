"""What came of a training, as metrics.json has it; does not compute any of it."""

from typing import Literal

from export.document import Document
from export.labelled import Split
from export.run import Sha256
from export.score import Estimate, Scores
from training.convergence import Convergence
from training.tuning.record import Record

METRICS = "metrics.json"
REPORT = "report.html"
CURVES = "curves.jsonl"
IMAGES = "images.csv"
# The baseline that a fine-tuning began with.
FROZEN_HEAD = "the head before it"


class Fault(Document):
    """A file that was left out, and why."""

    path: str
    reason: str


class Leak(Document):
    """A held-out image that is in a split before its own too, byte for byte or nearly.

    Attributes:
        split: Its split: "validation" or "test".
        of: That of its twin: "train", or of a test image "validation".
        twin: The other image.
    """

    split: Split
    path: str
    of: Split = "train"
    twin: str
    kind: Literal["duplicate", "near-duplicate"]


class Repeat(Document):
    """Two training images that are nearly one, and how they are labelled."""

    path: str
    label: str
    twin: str
    twin_label: str


class Lookalike(Document):
    """A held-out image that the backbone can hardly tell from one in a split before its own.

    Attributes:
        split: Its split: "validation" or "test".
        of: That of the other: "train", or of a test image "validation".
        other: The other image.
        distance: How far apart they are, as a part of how far the tenth image after the other one is, in [0, 1].
    """

    split: Split
    path: str
    of: Split
    other: str
    distance: float


class Data(Document):
    """The images that were learnt from and tested on.

    Attributes:
        source: The folder or file, as it was given.
        sha256: Names the images, their labels and their splits.
        labels: The label map: class names by column.
        labels_sha256: Names the label map.
        images: Counts by split and, in the order of the labels, class.
        left_out: Files that were left out, as --on-bad skip asks.
        leaks: Held-out images that are in the training split too, and test images that are in the validation split, by
            which choices are made. Figures that count them are too good.
        repeats: Training images that are nearly others which are not of their group: each with the closest, and the
            closest of another label, a pair once, those of two labels first. None where there are too many images to
            hold each against all others.
    """

    source: str
    sha256: Sha256
    labels: tuple[str, ...]
    labels_sha256: Sha256
    images: dict[Split, tuple[int, ...]]
    left_out: tuple[Fault, ...]
    leaks: tuple[Leak, ...]
    repeats: tuple[Repeat, ...] | None = None

    def contradictions(self) -> int:
        """How many pairs of training images that are nearly one are labelled differently."""
        return sum(each.label != each.twin_label for each in self.repeats or ())


class FrozenBackbone(Document):
    """The backbone that was not to change: digests of all its parameters and buffers before and after."""

    parameters: int
    buffers: int
    sha256_before: Sha256
    sha256_after: Sha256


class Features(Document):
    """Where the features came from: how many rows the cache had, and how many the backbone computed."""

    taps: dict[str, int]
    views: tuple[str, ...]
    provider: str
    from_cache: int
    computed: int


class Trial(Document):
    """One candidate in the cross-validation inside the training split.

    Attributes:
        l2: The strength of the penalty, of an mlp its weight decay; None where there is nothing to choose.
        accuracy: The mean over the folds.
        deviation: Between the folds.
        log_loss: Of all images, each by the fold that did not see it.
    """

    taps: tuple[str, ...]
    l2: float | None
    accuracy: float
    deviation: float
    log_loss: float
    chosen: bool


class Calibration(Document):
    """The temperature fitted on out-of-fold logits, and the log loss there without and with it."""

    temperature: float
    log_loss_before: float
    log_loss_after: float


class HeadResult(Document):
    """The head, and the evidence that it was chosen by; a published one was fitted to nothing here.

    Attributes:
        kind: Which head.
        taps: What it reads.
        parameters: How many numbers it has.
        images: How many images it was fitted to: fewer than there are where all that is made of them has no room in
            memory.
        folds: In how many folds candidates were held against each other.
        trials: The candidates.
        convergence: How the solver of a linear head ended.
        calibration: How its probabilities were made as sure as they are right.
    """

    kind: Literal["linear", "mlp", "cosine"]
    taps: tuple[str, ...]
    parameters: int
    images: int
    folds: int
    trials: tuple[Trial, ...]
    convergence: Convergence | None
    calibration: Calibration | None


class Heat(Document):
    """One short training of a plan in the race.

    Attributes:
        plan: Its place among the plans, from 0.
        regime: Which regime it is of.
        trains: What it trains, in words.
        round: From 1.
        images: How many images it learnt from.
        epochs: How often it was shown each; 0 where a head was fitted to features.
        accuracy: On the validation images, of which those of each class count alike where the plans treat unequal
            classes; 0 where the training came apart.
        seconds: What it took.
        note: What went wrong in it; None where nothing did.
    """

    plan: int
    regime: str
    trains: str
    round: int
    images: int
    epochs: int
    accuracy: float
    seconds: float
    note: str | None = None


class Race(Document):
    """The plans that were tried on a part of the training images, and the one that won.

    Attributes:
        images: How many images there were to learn from in it.
        validation: How many to compare on.
        heats: Round by round, and in each the cheapest first.
        chosen: The place of the plan that won, from 0.
        reason: Why, in words.
    """

    images: int
    validation: int
    heats: tuple[Heat, ...]
    chosen: int
    reason: str


class Looked(Document):
    """A backbone that might have been used.

    Attributes:
        accuracy: Of a linear layer on its embedding, by cross-validation; None where it was not looked at.
        refused: Why it was not; None where it was.
    """

    backbone: str
    accuracy: float | None
    refused: str | None


class Selection(Document):
    """How the backbone was chosen.

    Attributes:
        images: How many training images were looked at; 0 where there was no choice.
        looked: Those that were looked at, smallest first, and then those that could not be.
        chosen: Which it was.
        reason: Why, in words.
    """

    images: int
    looked: tuple[Looked, ...]
    chosen: str
    reason: str


class Way(Document):
    """How the backbone was used, and why.

    Attributes:
        regime: One of the regimes.
        trains: What was trained, in words.
        images: How many images it learnt from: fewer than there are where the time was too short for all.
        epochs: How often it was to be shown each, which the time may have made fewer; None where nothing was
            fine-tuned.
        advised: The regime that the evidence named; None where none was gathered.
        reasons: Why, in sentences; decision.json has the evidence.
        overridden: What a person chose themselves.
        race: The plans that were tried; None where there was one alone.
        imbalance: How unequal classes were treated, and why; None where they were not.
        tuning: How the fine-tuning went; None where nothing was fine-tuned.
        selection: How the backbone was chosen; None where a person did.
        seen: How many held-out images the backbone had learnt from before, without labels: of a `--init` that is known.
    """

    regime: str
    trains: str
    images: int
    epochs: int | None
    advised: str | None
    reasons: tuple[str, ...]
    overridden: tuple[str, ...]
    race: Race | None
    imbalance: str | None
    tuning: Record | None
    selection: Selection | None = None
    seen: int = 0

    def seen_words(self) -> str:
        """What it means that held-out images were seen before."""
        images = "image" if self.seen == 1 else "images"
        return (
            f"The pretraining has seen {self.seen} held-out {images}, without labels: what comes later will look less "
            "familiar than they did"
        )


class Baseline(Document):
    """A simple way to use the same features, for comparison.

    Attributes:
        balanced: Its accuracy with all classes counting alike, of the head that a fine-tuning began with.
    """

    name: str
    description: str
    accuracy: dict[Split, Estimate]
    balanced: dict[Split, Estimate] | None = None


class Result(Document):
    """Everything that was measured in a training.

    Attributes:
        way: How the backbone was used, and why.
        features: None of a random start.
        head: The head on frozen features: what a fine-tuning started from, and else the model's own. None of a random
            start.
        lookalikes: Held-out images, beside the leaks, that the backbone can hardly tell from one that was learnt from
            or chosen by: the same thing once more, perhaps. The nearest first; none of a random start and of a
            published model as it is. None where there are too many images to hold each against all others.
        scores: By split, of images that were held out.
        seconds: By step, in their order.
    """

    data: Data
    way: Way
    backbone: FrozenBackbone
    features: Features | None
    head: HeadResult | None
    lookalikes: tuple[Lookalike, ...] | None = ()
    scores: dict[Split, Scores]
    baselines: tuple[Baseline, ...]
    seconds: dict[str, float]

    def summary(self) -> tuple[str, ...]:
        """What a person wants to know first: how good it is, and what speaks against believing that."""
        lines = [f"{self.way.regime}: trained {self.way.trains}"]
        if self.learnt_from_some():
            there = sum(self.data.images["train"])
            lines.append(f"it learnt from {self.way.images} of {there} images, for which --time-limit-min had room")
        if self.head and self.head.trials and self.head.images < self.way.images:
            lines.append(
                f"its head was fitted to {self.head.images} of these images: what is made of more has no room in memory"
            )
        tuning = self.way.tuning
        if tuning and self.way.epochs and tuning.plan.epochs < self.way.epochs:
            lines.append(
                f"it was shown each image in {tuning.plan.epochs} of {self.way.epochs} epochs, for which "
                "--time-limit-min had room: with more time it may become better"
            )
        if self.way.selection and self.way.selection.images:
            lines.append(self.way.selection.reason)
        if self.way.race:
            lines.append(self.way.race.reason)
        if self.way.imbalance:
            lines.append(f"unequal classes were treated, at a cost in plain accuracy: {self.way.imbalance}")
        lines += [self._line(split) for split in self.scores]
        lines += self._lost()
        if tuning:
            lines += tuning.notes
        lines += self._seen_before()
        if left_out := len(self.data.left_out):
            were = "file was" if left_out == 1 else "files were"
            lines.append(f"{left_out} {were} left out; {METRICS} names them")
        if self.unconverged():
            lines.append("the solver did not converge: do not trust these figures")
        return tuple(lines)

    def _seen_before(self) -> list[str]:
        """What of the held-out images is no news, or may be none, and what contradicts itself."""
        lines = []
        sides: tuple[Literal["train", "validation"], ...] = ("train", "validation")
        for of in sides:
            if leaks := sum(leak.of == of for leak in self.data.leaks):
                lines.append(_leaking(leaks, of))
        if near := len(self.lookalikes or ()):
            images = "held-out image looks" if near == 1 else "held-out images look"
            lines.append(
                f"{near} other {images} to the backbone nearly like one that was learnt from or chosen by: cropped, "
                f"turned or photographed twice, or all alike. {REPORT} shows them"
            )
        if wrong := self.data.contradictions():
            pairs = "pair of training images is" if wrong == 1 else "pairs of training images are"
            why = f"one is wrong, or a detail matters. {REPORT} lists them"
            lines.append(f"{wrong} {pairs} nearly one image, with two labels: {why}")
        if self.way.seen:
            lines.append(self.way.seen_words())
        return lines

    def unconverged(self) -> Convergence | None:
        """How the solver of a head ended, of the one that was refitted or the one before it, if it was not done."""
        refit = self.way.tuning.refit if self.way.tuning else None
        ended = (refit.convergence if refit and refit.kept else None, self.head.convergence if self.head else None)
        return next((each for each in ended if each and not each.converged), None)

    def learnt_from_some(self) -> bool:
        """Whether the time was too short for all training images; a published model as it is learns from none."""
        return self.way.regime != "as-is" and self.way.images < sum(self.data.images["train"])

    def rivals(self) -> tuple[Baseline, ...]:
        """The ways that its plain accuracy may be held against: what treats unequal classes gives some of that away."""
        return tuple(each for each in self.baselines if each.name != FROZEN_HEAD or not self.way.imbalance)

    def _lost(self) -> list[str]:
        """That a fine-tuning was no use, where it was none."""
        split: Split = "test" if "test" in self.scores else "validation"
        head = next((each for each in self.baselines if each.name == FROZEN_HEAD), None)
        if head is None:
            return []
        now, before, how = self.scores[split].accuracy.value, head.accuracy[split].value, ""
        # By what it aimed at: where unequal classes are treated, that is not plain accuracy.
        if self.way.imbalance and head.balanced:
            now, before = self.scores[split].balanced_accuracy.value, head.balanced[split].value
            how = ", all classes counting alike"
        if before <= now:
            return []
        return [
            f"the head on the frozen backbone, which the training began with, has more of the {split} images "
            f"right{how}: {before:.1%} instead of {now:.1%}. --regime small-similar fits a head alone"
        ]

    def _line(self, split: Split) -> str:
        scores = self.scores[split]
        rivals = ", ".join(f"{each.name} {each.accuracy[split].value:.1%}" for each in self.rivals())
        # A random start has none.
        compared = f"; for comparison: {rivals}" if rivals else ""
        return (
            f"{split}: accuracy {_percent(scores.accuracy)}, balanced {_percent(scores.balanced_accuracy)}, macro-F1 "
            f"{_percent(scores.macro_f1)}, {scores.images} images{compared}"
        )


def _leaking(leaks: int, of: Literal["train", "validation"]) -> str:
    are = "image is" if leaks == 1 else "images are"
    where = f"held-out {are} in the training split" if of == "train" else f"test {are} in the validation split"
    return (
        f"{leaks} {where} too, or nearly, so these figures are too good. {REPORT} shows them; images with the same "
        "group are never divided"
    )


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"
