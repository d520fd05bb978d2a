"""The features of one data set as a head learns them; does not know what is decided by what it makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.progress import Advance
from export.run import EMBEDDING
from training import features, fitting
from training.advice import subset
from training.dataset import Sample
from training.features import Counts, Extractor
from training.fitting import Examples, Fitted, Kind
from training.report import HeldOut
from training.tuning.imbalance import Treatment
from training.views import PLAIN, View

# How many numbers are held of all images at once: 4 GiB, 120,000 images as all stages of EfficientNet-Lite0 see them.
_MOST = 2**30
_ASKED_AT_ONCE = 4096


@dataclass(frozen=True)
class Source:
    """Where the features of one data set are read.

    Attributes:
        train: The images to learn from.
        extractor: The backbone as the engine runs it.
        shown: The views of each of them, the plain one first.
        classes: The names of the classes, by column.
        cache: The folder of what is computed once.
        seed: Draws the folds.
    """

    train: tuple[Sample, ...]
    extractor: Extractor
    shown: tuple[View, ...]
    classes: tuple[str, ...]
    cache: Path
    seed: int

    def only(self, train: Sequence[Sample]) -> "Source":
        """The same with fewer images to learn from."""
        return replace(self, train=tuple(train))

    def missing(self, samples: Sequence[Sample], shown: Sequence[View]) -> tuple[Sample, ...]:
        """Those of some images of which the cache lacks any of these views."""
        lacking = features.missing(samples, shown, self.extractor, self.cache)
        return tuple(sample for sample in samples if sample.sha256 in lacking)

    def extract(self, held_out: Sequence[Sample], advance: Advance) -> Counts:
        """Put into the cache what it lacks: all views of the training images, and the held-out ones as they are."""
        learnt = features.extract(self.train, self.shown, self.extractor, self.cache, advance)
        asked = features.extract(held_out, (PLAIN,), self.extractor, self.cache, advance)
        return Counts(learnt.from_cache + asked.from_cache, learnt.computed + asked.computed)

    def fit(self, kind: Kind, candidates: Sequence[tuple[str, ...]], treated: Treatment | None = None) -> Fitted:
        """Train a head on the training images, or where there are more than there is room for on a part of every class.

        See fitting.fit.
        """
        numbers = len(self.shown) * max(self._width(taps) for taps in candidates)
        some = self.only(subset.choose(self.train, _MOST // numbers))
        return fitting.fit(kind, candidates, replace(some._examples(), treated=treated))

    def answer(self, fitted: Fitted, samples: Sequence[Sample]) -> HeldOut:
        """What a head makes of images, as they are."""
        taps = tuple(dict.fromkeys((*fitted.head.taps, EMBEDDING)))
        logits, embedding = [], []
        for start in range(0, len(samples), _ASKED_AT_ONCE):
            pooled = self._plain(samples[start : start + _ASKED_AT_ONCE], taps)
            with torch.no_grad():
                logits.append(fitted.module(pooled))
            embedding.append(pooled[EMBEDDING])
        return HeldOut(
            paths=tuple(sample.path for sample in samples),
            expected=np.array([sample.label for sample in samples]),
            logits=torch.cat(logits).numpy(),
            embedding=torch.cat(embedding).numpy(),
        )

    def known(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """The plain embeddings of images `[N, D]`, and their labels `[N]`."""
        return self._plain(samples, (EMBEDDING,))[EMBEDDING], torch.tensor([sample.label for sample in samples])

    def _examples(self) -> Examples:
        return Examples(
            matrix=self._matrix,
            widths=self.extractor.taps,
            views=len(self.shown),
            labels=torch.tensor([sample.label for sample in self.train]),
            weights=torch.tensor([sample.weight for sample in self.train], dtype=torch.float64),
            groups=[sample.group for sample in self.train],
            classes=self.classes,
            seed=self.seed,
        )

    def _matrix(self, taps: tuple[str, ...]) -> Tensor:
        """All views of the training images, view by view: float32 `[views * N, D]`."""
        matrix = torch.empty(len(self.shown) * len(self.train), self._width(taps))
        for part, view in zip(torch.split(matrix, len(self.train)), self.shown, strict=True):
            found = self._read(self.train, view, taps)
            torch.cat([found[tap] for tap in taps], dim=1, out=part)
        return matrix

    def _width(self, taps: Sequence[str]) -> int:
        return sum(self.extractor.taps[tap] for tap in taps)

    def _plain(self, samples: Sequence[Sample], taps: Sequence[str]) -> dict[str, Tensor]:
        return self._read(samples, PLAIN, taps)

    def _read(self, samples: Sequence[Sample], view: View, taps: Sequence[str]) -> dict[str, Tensor]:
        found = features.rows(samples, view, self.extractor, self.cache, taps)
        return {tap: torch.from_numpy(rows) for tap, rows in found.items()}
