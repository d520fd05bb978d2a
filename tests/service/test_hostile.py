"""No file hurts: a corpus made to, and files changed at random, are read or refused in bounded time and memory."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from service.image import NAMES
from tests import hostile
from tests.mutations import mutated
from tests.reader import Outcome, Reader

# What decoding may hold: WebP's decoder needs most, two pictures of RGBA beside the one that it gives.
_BYTES_PER_PIXEL = 16
_BYTES_BESIDE = 32 * 2**20
_SECONDS = 3.0
_WEIGHING_S = 0.05


def check_bounds(name: str, length: int, outcome: Outcome) -> None:
    assert outcome.seconds < _SECONDS, (name, outcome)
    assert outcome.weighing_s < _WEIGHING_S, (name, outcome)
    assert outcome.peak_bytes <= _BYTES_BESIDE + _BYTES_PER_PIXEL * outcome.pixels + 2 * length, (name, outcome)
    check_message(name, outcome.refusal)


def check_message(name: str, refusal: str) -> None:
    if refusal:
        assert refusal.startswith("Expected "), (name, refusal)
        assert ". Received: " in refusal, (name, refusal)
        assert refusal.isprintable(), (name, refusal)
        assert len(refusal) < 200, (name, refusal)
        assert "unpack" not in refusal, (name, refusal)


@pytest.mark.timeout(300)
def test_what_is_made_to_hurt_does_not() -> None:
    names = set()
    with Reader() as reader:
        for each in hostile.files():
            names.add(each.name)
            outcome = reader.read(each.data)
            became = "refused" if outcome.refusal else "read"
            assert each.expected in ("either", became), (each.name, outcome)
            check_bounds(each.name, len(each.data), outcome)
            if each.grows:
                outcome = reader.read(each.data, any_bytes=True)
                assert not outcome.refusal, (each.name, outcome)
                check_bounds(each.name, len(each.data), outcome)
        assert reader.said() == ""
    assert len(names) > 1000
    assert {name.rsplit(".", 1)[1] for name in names} == {"jpg", "png", "webp", "gif", "bmp", "tif"}
    assert NAMES == "JPEG, PNG, WebP, GIF, BMP or TIFF"


def test_files_changed_at_random_are_read_or_refused() -> None:
    results: list[bool] = []

    @settings(
        max_examples=1000,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated())
    def read(data: bytes) -> None:
        outcome = reader.read(data)
        check_bounds("mutated", len(data), outcome)
        results.append(bool(outcome.refusal))

    with Reader() as reader:
        read()
        assert reader.said() == ""
    assert 100 < sum(results) < 900, "all of one kind prove little"
