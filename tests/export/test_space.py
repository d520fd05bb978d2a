import pytest
import torch

from export import program
from export.run import EMBEDDING, Output, Run, Scaling
from export.space import embedding_space_id
from service.bundle import CropGeometry, Interpolation
from tests.export.conftest import GEOMETRY, Tiny, Traced, describe


def space(module: torch.nn.Module, **changes: object) -> str:
    model = program.trace(module, GEOMETRY)
    run = describe(model).model_copy(update=changes)
    return embedding_space_id(run, model, run.output(EMBEDDING))


@pytest.fixture(scope="module")
def own(tiny: Traced) -> str:
    return embedding_space_id(tiny.run, tiny.model, tiny.run.output(EMBEDDING))


def test_the_id_is_a_digest_and_the_same_every_time(own: str) -> None:
    assert len(own) == 64
    assert space(Tiny()) == own


def test_another_head_leaves_it(own: str) -> None:
    assert space(Tiny(head_seed=1)) == own


def test_other_labels_and_metrics_leave_it(own: str) -> None:
    assert space(Tiny(), labels=("a", "b", "c"), metrics={"top1": 0.5}) == own


def test_one_other_number_before_the_tap_changes_it(own: str) -> None:
    for name in ("first.weight", "second.bias", "norm.running_mean"):
        module = Tiny()
        with torch.no_grad():
            module.state_dict()[name].view(-1)[0] += 1e-3
        assert space(module) != own


@pytest.mark.parametrize(
    "changes",
    [
        {"geometry": CropGeometry(41, 32, 32, Interpolation.INTERPOLATION_BICUBIC)},
        {"geometry": CropGeometry(40, 32, 32, Interpolation.INTERPOLATION_BILINEAR)},
        {"scaling": Scaling(mean=(0.5, 0.5, 0.4), deviation=(0.5, 0.5, 0.5))},
        {"scaling": Scaling(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.4))},
        {"outputs": (Output(name="embedding", kind="embedding", shape=(8,), tap="c2", pooling="avg"),)},
        {"outputs": (Output(name="embedding", kind="embedding", shape=(8,), tap="pooled"),)},
    ],
)
def test_other_pixels_or_another_tap_change_it(own: str, changes: dict[str, object]) -> None:
    assert space(Tiny(), **changes) != own


def test_the_run_is_not_needed_beyond_geometry_and_scaling(tiny: Traced, own: str) -> None:
    other: Run = tiny.run.model_copy(update={"weights_sha256": "0" * 64, "backbone": None})
    assert embedding_space_id(other, tiny.model, tiny.run.output(EMBEDDING)) == own
