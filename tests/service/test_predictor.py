"""The use case, with a real bundle and engine: images in, answers and errors out, one an image."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.allowance import Allowance
from service.batcher import Batcher, Way
from service.bundle import Bundle
from service.device import Device
from service.engine import Engine
from service.errors import BadImage, BadRequest, DeadlinePassed, DeadlineUnreachable, MemoryFull
from service.image import ImageLimits
from service.metrics import Metrics
from service.predictor import Answer, Predictor, Question
from tests.conftest import encode
from tests.service.conftest import until

RED, GREEN = (255, 0, 0), (0, 200, 0)
NEVER_S = 1e12


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def allowance() -> Allowance:
    return Allowance("pixels", 10_000)


@pytest.fixture
async def predictor(
    bundle: Bundle, engine: Engine, registry: CollectorRegistry, clock: Clock, allowance: Allowance
) -> AsyncIterator[Predictor]:
    device = Device(1)
    batcher = Batcher(device, Way(engine.run, {1: 0.001, 2: 0.001}), limit=40, clock=clock)
    batcher.start()
    with ThreadPoolExecutor(2) as decoders:
        yield Predictor(
            bundle,
            batcher,
            decoders=decoders,
            limits=ImageLimits(),
            pixels=allowance,
            metrics=Metrics(registry),
            clock=clock,
        )
        await batcher.close()
        device.close()


async def test_labels_are_softmax_in_falling_order(predictor: Predictor) -> None:
    analysis = await predictor.analyze(Question([encode(GREEN)], NEVER_S, top_k=2))
    answer = analysis.answers[0]
    assert isinstance(answer, Answer)
    logits = np.array([0, 10 * 200 / 255, 0])
    expected = np.exp(logits) / np.exp(logits).sum()
    assert [(label.index, label.name) for label in answer.labels] == [(1, "green"), (0, "red")]
    assert [label.probability for label in answer.labels] == pytest.approx([expected[1], expected[0]], rel=1e-5)
    np.testing.assert_allclose(answer.embedding, [0, 200 / 255, 0], atol=1e-6)


async def test_improbable_labels_are_left_out(predictor: Predictor) -> None:
    analysis = await predictor.analyze(Question([encode(RED)], NEVER_S, top_k=3, min_probability=0.5))
    answer = analysis.answers[0]
    assert isinstance(answer, Answer)
    assert [label.name for label in answer.labels] == ["red"]


async def test_one_broken_image_among_32_costs_the_others_nothing(
    predictor: Predictor, registry: CollectorRegistry
) -> None:
    images = [encode(RED if index % 2 else GREEN) for index in range(32)]
    images[17] = images[17][:40]
    analysis = await predictor.analyze(Question(images, NEVER_S, top_k=1))
    names = [answer.labels[0].name if isinstance(answer, Answer) else type(answer) for answer in analysis.answers]
    expected: list[object] = ["red" if index % 2 else "green" for index in range(32)]
    expected[17] = BadImage
    assert names == expected
    for result, count in (("ok", 31), ("bad_image", 1)):
        labels = {"model": "colours", "format": "PNG", "result": result}
        assert registry.get_sample_value("vertebra_images_total", labels) == count


async def test_no_images_are_refused(predictor: Predictor) -> None:
    with pytest.raises(BadRequest, match=r"Expected at least 1 image. Received: 0\."):
        await predictor.analyze(Question([], NEVER_S))


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
async def test_an_impossible_probability_is_refused(predictor: Predictor, probability: float) -> None:
    with pytest.raises(BadRequest, match=rf"Expected min_probability in \[0, 1\]. Received: {probability}\."):
        await predictor.analyze(Question([encode(RED)], NEVER_S, top_k=1, min_probability=probability))


async def test_a_deadline_that_has_passed_is_refused(predictor: Predictor, clock: Clock) -> None:
    clock.now_s = 5.0
    with pytest.raises(DeadlinePassed, match=r"Expected a deadline to come. Received: one that passed 1000 ms ago"):
        await predictor.analyze(Question([encode(RED)], 4.0))


async def test_every_stage_is_timed(predictor: Predictor, registry: CollectorRegistry) -> None:
    await predictor.analyze(Question([encode(RED), encode(GREEN)], NEVER_S, top_k=1))
    for stage in ("decode", "queue", "infer", "postprocess"):
        labels = {"model": "colours", "stage": stage}
        assert registry.get_sample_value("vertebra_stage_duration_seconds_count", labels) == 2


async def test_pixels_are_admitted_for_all_images_or_none(predictor: Predictor, allowance: Allowance) -> None:
    small = encode(RED, size=(60, 50))  # 3,000 pixels in a few bytes
    with allowance.hold(5_000):
        with pytest.raises(MemoryFull, match=r"Expected room for 6000 pixels. Received: 5000 of 10000 are held\."):
            await predictor.analyze(Question([small, small], NEVER_S))
        assert isinstance((await predictor.analyze(Question([small], NEVER_S))).answers[0], Answer)
    with pytest.raises(BadRequest, match=r"Expected at most 10000 pixels in a request. Received: 12000\."):
        await predictor.analyze(Question([small] * 4, NEVER_S))
    assert allowance.held == 0


async def test_pixels_that_come_decoded_count_as_such(predictor: Predictor) -> None:
    with pytest.raises(BadRequest, match=r"Expected at most 10000 pixels in a request. Received: 10100\."):
        await predictor.analyze(Question([np.zeros((101, 100, 3), np.uint8)], NEVER_S))


async def left_by_callers_who_go(predictor: Predictor) -> list[object]:
    """The images that are still held after five callers have asked and gone."""
    images = [np.zeros((20, 20, 3), np.uint8) for _ in range(5)]
    left = [weakref.ref(image) for image in images]
    asked = [asyncio.ensure_future(predictor.analyze(Question([image], NEVER_S))) for image in images]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)
    del images, asked, task
    gc.collect()
    return [image for each in left if (image := each()) is not None]


async def test_callers_who_go_leave_nothing_in_the_decoders_queue(
    bundle: Bundle, engine: Engine, registry: CollectorRegistry, allowance: Allowance
) -> None:
    device, gate = Device(1), threading.Event()
    batcher = Batcher(device, Way(engine.run, {1: 0.001}), limit=40)
    batcher.start()
    with ThreadPoolExecutor(1) as decoders:
        decoders.submit(gate.wait, 60)
        predictor = Predictor(
            bundle, batcher, decoders=decoders, limits=ImageLimits(), pixels=allowance, metrics=Metrics(registry)
        )
        assert await left_by_callers_who_go(predictor) == []
        gate.set()
    await batcher.close()
    device.close()


@dataclass
class Busy:
    """A predictor on two lanes, both taken, and a decoder that never comes to anything."""

    predictor: Predictor
    batcher: Batcher
    device: Device

    async def free(self, waiting: int) -> None:
        await until(lambda: self.batcher.waiting == waiting)
        self.device.turns.release(self.device.turns.total)


@pytest.fixture
async def busy(bundle: Bundle, engine: Engine, registry: CollectorRegistry) -> AsyncIterator[Busy]:
    device, gate = Device(2), threading.Event()
    way = Way(engine.run, {1: 0.001})
    batcher = Batcher(device, way, way, limit=40)
    batcher.start()
    with ThreadPoolExecutor(1) as decoders:
        decoders.submit(gate.wait, 60)
        await device.turns.acquire(device.turns.total)
        yield Busy(
            Predictor(
                bundle,
                batcher,
                decoders=decoders,
                limits=ImageLimits(),
                pixels=Allowance("pixels", 10**8),
                metrics=Metrics(registry),
            ),
            batcher,
            device,
        )
        gate.set()
    await batcher.close()
    device.close()


async def test_while_every_core_is_busy_the_lane_reads(busy: Busy, registry: CollectorRegistry) -> None:
    broken = encode(RED)[:40]
    asked = asyncio.ensure_future(busy.predictor.analyze(Question([encode(GREEN), broken], NEVER_S, top_k=1)))
    await busy.free(waiting=2)
    good, bad = (await asked).answers
    assert isinstance(good, Answer)
    assert good.labels[0].name == "green"
    assert isinstance(bad, BadImage)
    assert (await asked).timing.decode_s > 0
    for stage in ("decode", "queue", "infer"):
        labels = {"model": "colours", "stage": stage}
        assert registry.get_sample_value("vertebra_stage_duration_seconds_count", labels) == 1


async def test_a_large_picture_keeps_no_lane_from_the_others(busy: Busy) -> None:
    large = asyncio.ensure_future(busy.predictor.analyze(Question([np.zeros((1100, 1000, 3), np.uint8)], NEVER_S)))
    small = asyncio.ensure_future(busy.predictor.analyze(Question([np.zeros((900, 1000, 3), np.uint8)], NEVER_S)))
    await busy.free(waiting=1)
    await small
    # It still waits for the decoder.
    assert not large.done()
    large.cancel()
    await asyncio.wait([large])


async def test_callers_who_go_leave_nothing_in_the_queue_of_the_lanes(busy: Busy) -> None:
    assert await left_by_callers_who_go(busy.predictor) == []
    await busy.free(waiting=0)


async def test_what_was_admitted_and_came_too_late_makes_the_next_admission_more_careful(busy: Busy) -> None:
    soon_s = time.monotonic() + 0.1
    asked = [asyncio.ensure_future(busy.predictor.analyze(Question([encode(RED)], soon_s))) for _ in range(2)]
    await until(lambda: time.monotonic() > soon_s)
    await busy.free(waiting=2)
    for each in asked:
        with pytest.raises(DeadlinePassed):
            await each
    with busy.batcher.admit(1, NEVER_S), pytest.raises(DeadlineUnreachable, match=r"Expected at least \d+ ms"):
        busy.batcher.admit(1, time.monotonic() + 0.005).__enter__()
