"""Frozen means that no parameter learns and no buffer moves, whatever is done to what holds it."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from training import backbones, freezing, heads
from training.backbones import Card
from training.freezing import Frozen, digest
from training.served import Served


@pytest.fixture(scope="module")
def served(small: Card) -> Served:
    """A model that is new to each file of tests, as a trainer would hold it."""
    backbone, _ = backbones.parted(backbones.pretrained(small))
    head = heads.LinearHead(("embedding", "c3"), 256 + 32, 3)
    return Served(backbone, head, small.backbone, small.scaling)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_train_mode_and_forward_move_no_buffer_and_drop_nothing(served: Served, pixels: Tensor) -> None:
    served.eval()
    before, expected = copied(served.backbone.state_dict()), served(pixels)
    served.train()
    assert served.training
    assert served.head.training
    assert not any(module.training for module in served.backbone.modules())
    answers = served(pixels)
    for name, tensor in served.backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(name.endswith("running_mean") for name in before)
    assert any(name.endswith("num_batches_tracked") for name in before)
    for name, answer in expected.items():
        assert torch.equal(answers[name], answer)


class Held(Frozen):
    """A frozen module that holds another one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.freeze()


def test_without_it_batch_norms_would_move(small: Card, pixels: Tensor) -> None:
    """The same backbone as it comes: what a frozen one is kept from."""
    backbone = backbones.pretrained(small)
    before = copied(backbone.state_dict())
    backbone.requires_grad_(False).train()
    backbone(pixels.permute(0, 3, 1, 2).float() / 255)
    moved = [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved
    assert {name.rpartition(".")[2] for name in moved} == {"running_mean", "running_var", "num_batches_tracked"}


def test_loaded_weights_learn_unless_they_are_frozen(small: Card) -> None:
    """torch's default is to learn, whether numbers were drawn or loaded; so frozen is what is said to be."""
    backbone = backbones.pretrained(small)
    assert all(each.requires_grad for each in backbone.parameters())
    assert not any(each.requires_grad for each in Held(backbone).parameters())


def test_a_learning_rate_of_nothing_is_no_freeze(small: Card, pixels: Tensor) -> None:
    """Parameters stay, but their gradients are computed and the batch norms go on adapting."""
    backbone = backbones.pretrained(small).train()
    before = copied(backbone.state_dict())
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.0, momentum=0.9, weight_decay=0.1)
    torch.autograd.backward(backbone(pixels.permute(0, 3, 1, 2).float() / 255).square().sum())
    optimizer.step()
    assert all(each.grad is not None for each in backbone.parameters())
    changed = {name for name, each in backbone.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {name for name, _ in backbone.named_buffers()}


def test_a_step_of_sgd_changes_head_tensors_alone(served: Served, pixels: Tensor) -> None:
    served.train()
    learning = {name for name, each in served.named_parameters() if each.requires_grad}
    assert learning == {"head.linear.weight", "head.linear.bias"}
    before = copied(served.state_dict())
    optimizer = torch.optim.SGD(served.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(served(pixels)["logits"], torch.tensor([0, 1, 2, 0])))
        optimizer.step()
    changed = {name for name, each in served.state_dict().items() if not torch.equal(each, before[name])}
    # Weight decay and momentum, too, pass over what has no gradient.
    assert changed == learning


def test_no_gradient_is_computed_in_what_is_frozen(served: Served, pixels: Tensor) -> None:
    answers = served.train()(pixels)
    assert answers["logits"].grad_fn is not None
    assert all(answer.grad_fn is None for name, answer in answers.items() if name != "logits")


def test_frozen_stays_frozen_in_any_mode() -> None:
    frozen = Held(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2)))
    holder = nn.Sequential(frozen, nn.Dropout(0.5))
    for mode in (holder.train(), holder.eval(), holder.train(True)):
        assert not any(module.training for module in frozen.modules())
        assert mode[1].training == mode.training
    assert not any(each.requires_grad for each in frozen.parameters())


TENSORS = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}


def test_a_digest_does_not_depend_on_order_or_on_how_a_tensor_lies_in_memory() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    assert digest({"m": matrix}) == digest({"m": matrix.T.contiguous().T})
    assert digest(TENSORS) == digest(dict(reversed(TENSORS.items())))
    assert digest(TENSORS) == freezing.digest({**TENSORS, "a": nn.Parameter(TENSORS["a"])})


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.tensor([1.0, 2.0000002]), "b": torch.tensor([3])},
        {"a": torch.tensor([1.0, 2.0]), "c": torch.tensor([3])},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([3])},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3], dtype=torch.int32)},
        {"a": torch.tensor([1.0, 2.0])},
        {},
    ],
    ids=["one bit", "name", "shape", "dtype", "fewer", "none"],
)
def test_a_digest_tells_every_change(changed: Mapping[str, Tensor]) -> None:
    assert digest(changed) != digest(TENSORS)


def test_the_sign_of_nothing_is_a_change() -> None:
    assert digest({"a": torch.tensor([0.0])}) != digest({"a": torch.tensor([-0.0])})
