"""A backbone and its head while they are fine-tuned: which tensors learn, and what frozen means for all others.

Does not know how they learn, nor where the numbers came from.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from export.run import Backbone
from training.parts import trained_from
from training.taps import TappedBackbone, pooled
from training.tuning import cut
from training.tuning.cut import Cut
from training.tuning.plan import Plan

HEAD = "head"
# As training.served.Served names the tensors of its backbone and head.
_BACKBONE = "backbone.module."


class Tunable(nn.Module):
    """A model whose tensors are named as those of the model that is served. At first all of it is frozen.

    A frozen part takes no gradient, keeps its buffers, and stays in eval mode under `.train()`. With nothing but frozen
    parts before the first trained one, autograd begins there.

    Args:
        backbone: Gives every tap of pixels.
        head: Makes logits `[N, C]` of the pooled taps.
        reads: The taps that the head reads.
        card: Names the stages and probes.
        parts: The tensors of `backbone.module`, by the part that they belong to, in the order of execution.
    """

    def __init__(
        self,
        backbone: TappedBackbone,
        head: nn.Module,
        reads: tuple[str, ...],
        card: Backbone,
        parts: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._dropout = nn.Dropout(0.0)
        self.reads = reads
        self.card = card
        self._parts = {part: tuple(_BACKBONE + name for name in names) for part, names in parts.items()}
        self._cut: Cut | None = None
        self._still = tuple(self.modules())
        self.requires_grad_(False)
        self.train(False)

    def arrange(self, plan: Plan) -> None:
        """Unfreeze what a plan trains and freeze everything else, whatever was trained before.

        Args:
            plan: Names the first part that trains; its batch norms and its dropout are followed, too.

        Raises:
            TuningError: There is no such part.
        """
        learning = {name for part in self.trained_parts(plan) for name in self._parts[part]}
        for name, parameter in self.named_parameters():
            # A gradient that stayed behind would let momentum and weight decay go on moving what is frozen.
            parameter.grad = None
            parameter.requires_grad_(name in learning or name.startswith(f"{HEAD}."))
        self._dropout.p = plan.dropout
        still = list(_still(self))
        if plan.batch_norm == "eval":
            still += [module for module in self.modules() if isinstance(module, _BatchNorm)]
        self._still = tuple(still)
        self.train(self.training)
        self._cut = None

    def trained_parts(self, plan: Plan) -> tuple[str, ...]:
        """The parts of the backbone that a plan trains, first to last; TuningError where it names none of them."""
        return trained_from(self._parts, plan.unfreeze_from)

    def rates(self, by_part: Mapping[str, float], head: float) -> dict[str, float]:
        """The learning rate of each trained parameter, of those of the parts and that of the head."""
        part_of = {name: part for part, names in self._parts.items() for name in names}
        return {name: by_part[part_of[name]] if name in part_of else head for name in self.trained()}

    def is_backbone(self, name: str) -> bool:
        """Whether a tensor is one of the backbone's."""
        return name.startswith(_BACKBONE)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn."""
        return {name: each for name, each in self.named_parameters() if each.requires_grad}

    def learnt(self) -> dict[str, Tensor]:
        """The tensors that a training may change: what learns, and the statistics of batch norms in train mode."""
        still = set(self._still)
        moving = {
            f"{place}.{name}"
            for place, module in self.named_modules()
            if isinstance(module, _BatchNorm) and module not in still
            for name, _ in module.named_buffers(recurse=False)
        }
        trained = self.trained()
        return {name: each for name, each in self.state_dict().items() if name in trained or name in moving}

    def frozen(self) -> dict[str, Tensor]:
        """The tensors that no training may change."""
        learnt = self.learnt()
        return {name: each for name, each in self.state_dict().items() if name not in learnt}

    def train(self, mode: bool = True) -> "Tunable":
        """Go into train mode or eval mode, but for what is frozen."""
        super().train(mode)
        for module in self._still:
            module.training = False
        return self

    def forward(self, shown: Tensor, taps: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the model once.

        Args:
            shown: Pixels uint8 `[N, H, W, 3]`, RGB; or, with taps, the map float32 `[N, channels, h, w]` at the cut.
            taps: What the head reads of the taps before the cut, pooled, as `before_cut` gave them.

        Returns:
            Logits `[N, C]`.
        """
        if taps is None:
            read: Mapping[str, Tensor] = pooled(self.backbone(shown))
        else:
            read = {**taps, **self.cut().after(self._inner(), shown)}
        logits: Tensor = self.head({name: self._dropout(read[name]) for name in self.reads})
        return logits

    def cut(self) -> Cut:
        """Where the frozen prefix ends; TuningError where this architecture cannot be divided there."""
        if self._cut is None:
            trained = {name.removeprefix(_BACKBONE) for name in self.trained()}
            self._cut = cut.find(self._inner(), trained, self.card, self.reads)
        return self._cut

    @torch.no_grad()
    def before_cut(self, pixels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the frozen prefix makes of pixels uint8 `[N, H, W, 3]`: the map at the cut, and taps on the way."""
        return self.cut().before(self._inner(), self.backbone.scaled(pixels))

    def before_cut_tensors(self) -> dict[str, Tensor]:
        """The tensors of the frozen prefix, and how it scales pixels, by name."""
        prefix = tuple(f"{_BACKBONE}{name}." for name in self.cut().prefix)
        kept = {name: each for name, each in self.state_dict().items() if name.startswith(prefix)}
        return {**kept, "mean": self.backbone.mean, "deviation": self.backbone.deviation}

    def _inner(self) -> nn.Module:
        inner: nn.Module = self.backbone.module
        return inner


def _still(module: nn.Module) -> Iterator[nn.Module]:
    """Every module of which nothing learns, and what lies in it; a module without tensors goes with what holds it."""
    if any(parameter.requires_grad for parameter in module.parameters()):
        for child in module.children():
            if child.state_dict():
                yield from _still(child)
        return
    yield from module.modules()
