"""The table from errors to codes has every error, and trailers say when to try again."""

import grpc
import pytest

from service import errors, status
from service.server import AddressUnusable


def subclasses(error: type[errors.VertebraError]) -> set[type[errors.VertebraError]]:
    return {error}.union(*(subclasses(each) for each in error.__subclasses__()))


def test_every_error_that_is_raised_is_in_the_table() -> None:
    # The two roots are never raised; an unusable address or provider ends the process before there is a wire.
    not_raised = {errors.VertebraError, errors.Refused, errors.ProviderMissing, AddressUnusable}
    assert set(status.CODES) == subclasses(errors.VertebraError) - not_raised


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.Overloaded("full", 0.25), ((status.PUSHBACK, "250"),)),
        (errors.Overloaded("full", 0.0001), ((status.PUSHBACK, "20"),)),
        (errors.NotReady("failed to load"), ()),
        (errors.BadRequest("no images"), ()),
    ],
)
def test_only_refusals_that_know_carry_a_pushback(
    error: errors.VertebraError, expected: tuple[tuple[str, str], ...]
) -> None:
    assert status.trailers(error) == expected


def test_numbers_are_those_of_the_wire() -> None:
    assert status.number(grpc.StatusCode.INVALID_ARGUMENT) == 3
    assert status.number(grpc.StatusCode.INTERNAL) == 13
