"""A refitted head is the logistic regression on every tap of the backbone as it is, kept where it is no worse."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from service import image
from service.bundle import CropGeometry, Interpolation
from tests.training.test_tuned import LABELS, drawn
from tests.training.tuning.teacher import CARD, nothing, tunable
from training import logistic, refit
from training.dataset import Sample
from training.freezing import digest
from training.heads import LinearHead, Scaler, joined
from training.refit import Refitted
from training.taps import pooled
from training.tuning import batches, devices, imbalance, pixels
from training.tuning.augmentation import Augmentation
from training.tuning.batches import Augmented, Plain
from training.tuning.imbalance import Treatment
from training.tuning.loss import Objective
from training.tuning.model import Tunable
from training.tuning.order import Order
from training.tuning.validation import Score

GEOMETRY = CropGeometry(36, 32, 32, Interpolation.INTERPOLATION_BILINEAR)
ALIKE = imbalance.treat("none", (1,) * len(LABELS))
AS_THEY_ARE = Augmentation()


@dataclass(frozen=True)
class Class:
    """A model, and the images that it has learnt from."""

    cache: Path
    model: Tunable
    samples: tuple[Sample, ...]
    framed: pixels.Pixels
    objective: Objective

    def looks(self, augmentation: Augmentation = AS_THEY_ARE) -> Augmented:
        data = batches.images(self.samples, self.framed, ALIKE)
        return Augmented(data, Order(data.labels, 16, balanced=False, fewest=1), augmentation, GEOMETRY, seed=0)

    def refit(
        self,
        samples: Sequence[Sample] | None = None,
        treated: Treatment = ALIKE,
        augmentation: Augmentation = AS_THEY_ARE,
        told: list[int] | None = None,
    ) -> Refitted:
        advance = nothing if told is None else told.append
        given = (samples or self.samples, self.looks(augmentation), treated, advance)
        return refit.refit(self.model, self.objective, *given)

    def plain(self) -> Tensor:
        """The files as the service would show them."""
        shown = [image.read(each.path.read_bytes(), GEOMETRY, image.ImageLimits()) for each in self.samples]
        return torch.from_numpy(np.stack(shown))

    def taps(self, shown: Tensor | None = None) -> Tensor:
        """What the model makes of pixels, or of those of the files: `[N, D]`."""
        with torch.no_grad():
            found = pooled(self.model.backbone(self.plain() if shown is None else shown))
        return joined(found, CARD.taps())

    def labels(self) -> Tensor:
        return torch.tensor([each.label for each in self.samples])


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Class:
    folder = tmp_path_factory.mktemp("class")
    samples = drawn(folder, 12, 0)
    framed = pixels.framed(samples, GEOMETRY, folder / "cache", nothing)
    plain = Objective(devices.launched(), 0.0, None, bf16=False, channels_last=False)
    return Class(folder / "cache", tunable(), samples, framed, plain)


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the head that was trained is left in the new one."""
    monkeypatch.setattr(refit, "TRAINED", 0.0)


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("augmentation", [AS_THEY_ARE, Augmentation(area=0.6, mirrors=True)])
def test_it_is_the_logistic_regression_of_another_library_on_every_tap(
    taught: Class, augmentation: Augmentation
) -> None:
    """Of the images as they are served, and of one look at them as they were augmented."""
    told: list[int] = []
    found, rows, labels = taught.refit(augmentation=augmentation, told=told), taught.taps(), taught.labels()
    assert found.head.taps == CARD.taps() == ("c1", "c2", "c3", "c4", "c5", "embedding")
    assert (found.record.images, found.record.features) == rows.shape
    if augmentation != AS_THEY_ARE:
        looked = torch.cat(list(taught.looks(augmentation).view(0)))
        assert not torch.equal(looked, taught.plain())
        rows, labels = torch.cat([rows, taught.taps(looked)]), labels.repeat(2)
    assert sum(told) == len(rows) == refit.views(augmentation) * len(taught.samples)
    widths = [stage.channels for stage in CARD.stages]
    scaled = Scaler.of(rows, [*widths, rows.shape[1] - sum(widths)]).standardise_(rows.clone()).numpy()
    strength = refit.l2(len(taught.samples))
    other = LogisticRegression(C=1 / (strength * len(rows)), tol=1e-8, max_iter=10_000).fit(scaled, labels)
    with torch.no_grad():
        answered = found.module.linear(rows).numpy()
    np.testing.assert_allclose(softmax(answered, axis=1), other.predict_proba(scaled), atol=0.02)


def spread(logits: Tensor) -> Tensor:
    return (logits - logits.mean(dim=1, keepdim=True)).std()


@pytest.mark.parametrize("taps", [("embedding",), ("embedding", "c3")])
def test_the_head_that_was_trained_is_a_part_of_its_answers(
    taught: Class, taps: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = {name: each.shape[1] for name, each in pooled(taught.model.backbone(taught.plain())).items()}
    model = deepcopy(taught.model)
    model.head = LinearHead(taps, sum(widths[tap] for tap in taps), len(LABELS))
    model.reads = taps
    asked = replace(taught, model=model)
    mixed = asked.refit()
    monkeypatch.setattr(refit, "TRAINED", 0.0)
    anew, rows = asked.refit(), taught.taps()
    with torch.no_grad():
        of_trained = model.head(pooled(model.backbone(taught.plain())))
        of_anew = anew.module.linear(rows)
        of_trained *= spread(of_anew) / spread(of_trained)
        assert not torch.allclose(of_trained, of_anew, atol=0.1)
        expected = (2 * of_anew + of_trained) / 3
        torch.testing.assert_close(mixed.module.linear(rows), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize(("images", "expected"), [(100, 0.3), (2_500, 0.3), (10_000, 0.1), (50_000, 0.02)])
def test_of_many_images_the_penalty_beside_their_mean_loss_is_weaker(images: int, expected: float) -> None:
    assert refit.l2(images) == pytest.approx(expected)


@pytest.mark.usefixtures("anew")
def test_the_penalty_goes_by_the_images_that_there_are(taught: Class, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = taught.refit()
    monkeypatch.setattr(refit, "PRIOR_IMAGES", 0.01 * len(taught.samples))
    weak = taught.refit()
    assert weak.module.linear.weight.norm() > 1.5 * plain.module.linear.weight.norm()


def test_the_model_stays_as_it_is(taught: Class) -> None:
    before = digest(taught.model.state_dict())
    taught.refit()
    assert digest(taught.model.state_dict()) == before
    assert all(each.grad is None for each in taught.model.parameters())


@pytest.mark.usefixtures("anew")
def test_what_images_count_is_what_they_count_here(taught: Class) -> None:
    """An image of weight two is as two of them."""
    heavy = [replace(each, weight=2.0) if each.label == 0 else each for each in taught.samples]
    twice = [*taught.samples, *(each for each in taught.samples if each.label == 0)]
    rows, plain = taught.taps(), taught.refit()
    weighted, doubled = taught.refit(heavy), taught.refit(twice)
    answered = [each.module.linear(rows).softmax(1) for each in (plain, weighted, doubled)]
    # Not the same to the last digit: what standardises features goes by rows.
    torch.testing.assert_close(answered[1], answered[2], rtol=0, atol=0.05)
    assert (answered[1][:, 0] > answered[0][:, 0]).all()


@pytest.mark.usefixtures("anew")
def test_what_it_has_learnt_of_how_common_a_class_is_is_taken_off(taught: Class) -> None:
    treated = imbalance.treat("logit adjustment", (20, 12, 4))
    rows, plain, adjusted = taught.taps(), taught.refit(), taught.refit(treated=treated)
    with torch.no_grad():
        torch.testing.assert_close(
            adjusted.module.linear(rows), plain.module.linear(rows) - torch.tensor(treated.log_prior)
        )


def test_of_more_images_than_there_is_room_for_a_part_is_looked_at_and_every_class_is_in_it(
    taught: Class, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "MOST", 15 * taught.taps().shape[1])
    shown: list[Augmented] = []
    plain = refit._plain

    def seen(looks: Augmented) -> Iterator[Tensor]:
        shown.append(looks)
        return plain(looks)

    monkeypatch.setattr(refit, "_plain", seen)
    told: list[int] = []
    found = taught.refit(told=told)
    (data,) = (each.data for each in shown)
    assert found.record.images == len(data.labels) == 15
    assert set(data.labels) == {0, 1, 2}
    keys = {each.sha256: each.label for each in taught.samples}
    assert [keys[each] for each in data.pixels.keys] == data.labels.tolist()
    assert sum(told) == len(taught.samples)


@pytest.mark.parametrize(("better", "kept"), [(0.02, False), (0.0, True), (-0.02, True)])
def test_it_is_kept_where_the_fine_tuned_head_is_not_better(taught: Class, better: float, kept: bool) -> None:
    held = pixels.served(taught.samples, GEOMETRY, taught.cache, nothing)
    validation = Plain(held, taught.labels().numpy(), np.ones(len(taught.samples)), 16)
    found, rows = taught.refit(), taught.taps()
    with torch.no_grad():
        right = float((found.module.linear(rows).argmax(1) == taught.labels()).double().mean())
    before = Score(images=len(rows), accuracy=right, weighed=right + better, log_loss=9.0)
    judged = refit.against(found, taught.model, taught.objective, validation, before).record
    assert judged.before == before
    assert judged.after is not None
    assert judged.after.images == len(rows)
    assert judged.after.accuracy == pytest.approx(right)
    assert judged.kept == kept


def test_a_solver_that_did_not_converge_is_told_of(taught: Class, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = taught.refit().record.convergence
    assert ended.converged
    assert ended.gradient <= ended.tolerance
    monkeypatch.setattr(logistic, "_MAX_ITERATIONS", 1)
    stopped = taught.refit().record.convergence
    assert (stopped.converged, stopped.iterations) == (False, 1)
    assert stopped.gradient > stopped.tolerance
