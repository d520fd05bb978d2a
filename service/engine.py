"""Runs one ONNX graph with ONNX Runtime, `uint8 [N, H, W, 3]` to named arrays; reads no settings, knows no model names.

Measured on two cores with Lite0 (tests/benchmarks/engine.py): at the batch sizes that pay, the CPU memory arena gains a
few per cent, and at batch 16 it holds twice the memory, in every session. Spinning threads gain a fifth on idle cores
and lose a third beside a busy neighbour, which the decoders are.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service import providers
from service.errors import BundleError
from service.providers import CPU, Provider
from service.runtime import ort

# The shortest of as many runs is what a batch size is worth: a neighbour can make a run longer, never shorter.
_ROUNDS = 5
# Long runs need fewer rounds, because what disturbs them evens out; and nobody waits minutes for a large model.
_LONG_ENOUGH_S = 0.5
# A larger batch pays where it saves at least a twentieth of an image's time.
_PAYS = 0.95

Arrays = Mapping[str, NDArray[np.float32]]


class _Spent(NamedTuple):
    """What runs took: on the clock on the wall, and by the measure that batches are compared with."""

    wall_s: float
    cost_s: float


class Engine:
    """One graph in one session, ready to run; safe to call from several threads.

    Attributes:
        shape: `(H, W, 3)` of the pixels that it takes.
        outputs: The names of its outputs.
        provider: ONNX Runtime's name of what runs it.
        nodes: How many nodes of the graph each provider runs, by ONNX Runtime's name. A GPU leaves to the CPU what
            only reckons with shapes.

    Args:
        graph: The ONNX file. Its one input is uint8 `[N, H, W, 3]`; its outputs are float32 `[N, ...]`.
        threads: How many threads one run may use, at least 1.
        provider: What runs it.

    Raises:
        BundleError: The file is no such graph, or the provider takes nothing of it.
    """

    def __init__(self, graph: Path, threads: int, provider: Provider = CPU) -> None:
        try:
            self._session = providers.session(graph.read_bytes(), provider, _options(threads))
        # ONNX Runtime's exceptions have no common base below Exception.
        except Exception as error:
            raise BundleError(f"Expected {graph.name} to load in ONNX Runtime. Received: {error}") from error
        self.provider: str = provider.name
        self.nodes: Mapping[str, int] = providers.nodes(self._session)
        if self.nodes and provider.name not in self.nodes:
            raise BundleError(
                f"Expected {provider.name} to run nodes of {graph.name}. Received: {dict(self.nodes)}, none of them."
            )
        # A run with one thread is all done by its caller, whose own CPU time no neighbour makes longer.
        self._alone = threads == 1 and provider is CPU
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4:
            received = [(each.name, each.type, each.shape) for each in inputs]
            raise BundleError(f"Expected one input, uint8 [N, H, W, 3]. Received: {received}.")
        self._input = inputs[0].name
        self.shape = _fixed(inputs[0].shape[1:])
        if wrong := [each.name for each in self._session.get_outputs() if each.type != "tensor(float)"]:
            raise BundleError(f"Expected outputs of float32. Received: another type for {wrong}.")
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def run(self, pixels: NDArray[np.uint8]) -> Arrays:
        """Run the graph once.

        Args:
            pixels: `uint8 [N, H, W, 3]`, N at least 1.

        Returns:
            For each output its float32 `[N, ...]` array.
        """
        return dict(zip(self.outputs, self._session.run(None, {self._input: pixels}), strict=True))

    def warm_up(self, batch_sizes: Sequence[int]) -> dict[int, float]:
        """Run rising batch sizes for as long as they pay, so that no request pays for a first time.

        A batch that saves no time costs latency, because everybody in it waits for the whole of it, and memory. On a
        CPU it even loses time once its activations have left the caches.

        Args:
            batch_sizes: The batch sizes, rising from 1.

        Returns:
            The seconds that one image takes, for each batch size that is worth running.

        Raises:
            BundleError: The graph cannot run a batch size, or does not answer each image of it.
        """
        worth: dict[int, float] = {}
        batches: list[NDArray[np.uint8]] = []
        for size in batch_sizes:
            batches = [*batches[-1:], np.zeros((size, *self.shape), np.uint8)]
            self._try(batches[-1])
            *smaller, spent = self._measure(batches)
            if smaller and spent.cost_s > smaller[0].cost_s * _PAYS:
                break
            worth[size] = spent.wall_s / size
        return worth

    def _measure(self, batches: Sequence[NDArray[np.uint8]]) -> list[_Spent]:
        """What the images of the last batch take, in batches like each. Rounds are interleaved, and all run as many
        images: a slow moment slows all of them, and a shorter run has no better luck with its neighbours."""
        images, rounds = len(batches[-1]), list[list[_Spent]]()
        until_s = time.perf_counter() + _LONG_ENOUGH_S
        while not rounds or (len(rounds) < _ROUNDS and time.perf_counter() < until_s):
            rounds.append([self._spend(batch, images // len(batch)) for batch in batches])
        return [_Spent(*map(min, zip(*each, strict=True))) for each in zip(*rounds, strict=True)]

    def _try(self, pixels: NDArray[np.uint8]) -> None:
        try:
            answers = self.run(pixels)
        # ONNX Runtime's exceptions have no common base below Exception.
        except Exception as error:
            raise BundleError(f"Expected a graph that runs a batch of {len(pixels)}. Received: {error}") from error
        for name, array in answers.items():
            if array.shape[:1] != (len(pixels),):
                raise BundleError(
                    f"Expected {name} to have a row for each of {len(pixels)} images. Received: {list(array.shape)}."
                )

    def _spend(self, pixels: NDArray[np.uint8], times: int) -> _Spent:
        clock = time.thread_time if self._alone else time.perf_counter
        wall_s, cost_s = time.perf_counter(), clock()
        for _ in range(times):
            self.run(pixels)
        return _Spent(time.perf_counter() - wall_s, clock() - cost_s)


def _fixed(shape: Sequence[object]) -> tuple[int, ...]:
    sides = tuple(side for side in shape if isinstance(side, int))
    if len(sides) != 3 or sides[2] != 3:
        raise BundleError(f"Expected an input of fixed height and width and 3 channels. Received: {list(shape)}.")
    return sides


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in files beside the graph, which no digest covers, are looked for where there are none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.log_severity_level = 3  # errors; they are raised as well
    return options
