"""From labelled images to a run: evidence, a race of plans, the training that won; every step in a file of its own."""

import time
from collections.abc import Sequence
from itertools import chain

from export import staging
from export.progress import Steps
from training import backbones, features, opening, portion, published, race, tuned
from training.advice import advise as advisor
from training.advice.candidates import Candidate, candidates
from training.advice.decide import UNADVISED, Decision, Leaning
from training.advice.explain import explain
from training.backbones import Card
from training.dataset import Dataset
from training.features import Counts
from training.ledger import Ledger
from training.made import make
from training.opening import Opened
from training.parts import parts, trained_from
from training.race import Raced
from training.source import Source
from training.start import Order, Start, ledger, reads_frozen, treats
from training.taps import TappedBackbone
from training.tuning import augmentation, batches, cut, determinism, devices, rates
from training.tuning.plan import Plan
from training.views import views
from training.written import Trained, write

# The door: what callers need that lies in the rooms behind it has its name here, too.
__all__ = ["STEPS", "Order", "Trained", "fit"]

STEPS = 8


def fit(order: Order, steps: Steps) -> Trained:
    """Make a run of labelled images.

    Args:
        order: What to make.
        steps: Tells of the steps: STEPS of them, and those that a race or a fine-tuning adds.

    Returns:
        The run, its folder written whole, with metrics.json, decision.json, report.html and images.csv in it, and the
        curves of a fine-tuning.

    Raises:
        BackboneError: There is no such backbone, its weights are not what its card says, or its features no numbers.
        CacheError: The cache cannot be read or written.
        DataError: The images are not what they must be.
        Disagreement: The engine does not answer as torch does.
        FrozenError: What was to stay frozen did not stay as it was pretrained.
        HeadError: No head can be trained on them.
        TargetError: The folder exists.
        TuningError: A plan cannot be followed.
    """
    started_s = time.monotonic()
    staging.refuse_existing(order.out)
    random = order.question.regime == "scratch"
    opened = opening.opened(order.question, steps)
    glanced = ledger(order, opened)
    source = None if random else _source(order, opened, steps)
    if source:
        source = _portion(source, opened, started_s + order.question.limit_s - time.monotonic(), glanced, steps)
        opened = opened.learning_from(source.train)
    data, card = opened.data, opened.card
    decision, plans = _plans(order, data, card, source, steps)
    _check(order, opened, plans, steps)
    counts = _extract(source, data, steps) if source else Counts(0, 0)
    start = Start(order, opened, source, plans, counts, started_s + order.question.limit_s)
    if start.treated.kind != "none":
        steps.say(f"Unequal classes: {start.treated.reason}.")
    decided = start.ledger()
    leans = decision.leans if decision else UNADVISED
    raced = _raced(start, leans, decided, steps)
    made = make(start, raced, decided, steps)
    trained = write(start, decision, made, steps)
    # What was written need not be gone on with.
    decided.forget()
    glanced.forget()
    if made.fine_tuned:
        tuned.forget(made.fine_tuned)
    return trained


def _check(order: Order, opened: Opened, plans: Sequence[Candidate], steps: Steps) -> None:
    """Refuse what plans cannot do before the features of all images are computed, which may take long."""
    data, card = opened.data, opened.card
    if any(plan.start == "pretrained classifier" for plan in plans):
        published.head(card, data.data.labels)
    if order.head != "linear" and not any(reads_frozen(plan) for plan in plans):
        steps.say("Not used, because only a head on a frozen backbone is chosen: head.")
    tunings = [(plan, plan.tuning) for plan in plans if plan.tuning]
    asked = [name for name in order.changes if name != "imbalance" or not treats(order, plans)]
    asked += ["augmentation"] if order.augmentation else []
    if asked and not tunings:
        names = ", ".join(each.replace("_", "-") for each in asked)
        steps.say(f"Not used, because nothing is to be fine-tuned: {names}.")
    if not tunings:
        return
    if "patience" in order.changes and not data.splits.get("validation"):
        steps.say("Not used, because there is no validation split: patience.")
    module, _ = backbones.parted(backbones.build(card.backbone.architecture, 0))
    determinism.check(TappedBackbone(module, card.backbone, card.scaling), opened.geometry)
    known, images = parts(module, card.backbone), len(data.splits["train"])
    for plan, tuning in tunings:
        trained_from(known, tuning.unfreeze_from)
        if tuning.cached_views:
            cut.check(module)
        how = augmentation.preset(plan.augmentation, turns=order.turns, images=images, epochs=tuning.epochs)
        batches.check_views(tuning.cached_views, how)
    for said in dict.fromkeys(each for plan, tuning in tunings for each in _warnings(plan, tuning, card, images)):
        steps.say(said)


def _warnings(plan: Candidate, tuning: Plan, card: Card, images: int) -> tuple[str, ...]:
    """What a person should know of a rate that they chose before anything is trained with it."""
    if isinstance(tuning.rate, str):
        return ()
    batch_size, from_random = min(tuning.batch_size, images), plan.start == "random"
    return rates.warnings(tuning.rate, card.backbone.recipe, batch_size, from_random=from_random)


def _source(order: Order, opened: Opened, steps: Steps) -> Source:
    with steps.step("load the backbone"), devices.launched().rank_zero_first():
        extractor = features.extractor(opened.card, opened.geometry, order.question.cache)
    shown, data, asked = views(order.views), opened.data, order.question
    return Source(data.splits["train"], extractor, shown, data.data.labels, asked.cache, asked.plan.seed)


def _portion(source: Source, opened: Opened, left_s: float, glanced: Ledger, steps: Steps) -> Source:
    held_out = tuple(chain(*opened.data.held_out.values()))
    return source.only(portion.take(source, held_out, left_s, glanced, steps))


def _plans(
    order: Order, data: Dataset, card: Card, source: Source | None, steps: Steps
) -> tuple[Decision | None, tuple[Candidate, ...]]:
    """What is worth trying: what was asked for, or what the evidence says."""
    decision = None
    if order.question.regime == "auto":
        assert source is not None  # nothing but a random start has none
        steps.more(advisor.STEPS)
        decision = advisor.advise(data, source.extractor, card, order.question.cache, steps)
        steps.say(explain(decision))
        plans = decision.plans
    else:
        plans = candidates(order.question.regime, len(data.splits["train"]), card.backbone)
    distinct: dict[Candidate, Candidate] = {}
    for plan in plans:
        changed = _changed(plan, order, card.backbone.stages[0].name)
        # Plans of two regimes may have become one, which need not race itself.
        distinct.setdefault(changed.model_copy(update={"regime": plans[0].regime}), changed)
    return decision, tuple(distinct.values())


def _changed(plan: Candidate, order: Order, first: str) -> Candidate:
    if plan.tuning is None:
        return plan
    # Not copied but made anew: what a person says is checked as the plan's own figures are.
    tuning = type(plan.tuning).model_validate({**plan.tuning.model_dump(), **order.changes})
    if tuning.optimizer != plan.tuning.optimizer and "rate" not in order.changes:
        # The recipe's is one for SGD.
        tuning = tuning.model_copy(update={"rate": "range test"})
    if tuning.unfreeze_from == first:
        # Of a plan that freezes nothing, which another one may race against, nothing can be kept.
        tuning = tuning.model_copy(update={"cached_views": None})
    changes = {"tuning": tuning, "augmentation": order.augmentation or plan.augmentation}
    return type(plan).model_validate({**dict(plan), **changes})


def _extract(source: Source, data: Dataset, steps: Steps) -> Counts:
    held_out = tuple(chain(*data.held_out.values()))
    # What the first process writes the others find.
    first = devices.launched().rank_zero_first()
    with steps.step("extract features", len(source.shown) * len(source.train) + len(held_out)) as advance, first:
        return source.extract(held_out, advance)


def _raced(start: Start, leans: Leaning, decided: Ledger, steps: Steps) -> Raced | None:
    if len(start.plans) == 1:
        return None
    frozen = race.HeadTrials(start.head, start.right, start.treated)
    return race.race(start.ground(), start.plans, leans, frozen, start.left_s(), steps, decided)
