"""Every code has its error, and every error can travel to another process."""

import pickle

import grpc
import pytest

from vertebra.client import errors

# UNKNOWN and the codes that no server of ours sends stay the plain RpcError.
NAMELESS = {"OK", "UNKNOWN", "ALREADY_EXISTS", "ABORTED", "OUT_OF_RANGE", "DATA_LOSS"}


def test_every_code_has_its_error() -> None:
    assert {code.name for code in grpc.StatusCode} == {code.name for code in errors.BY_CODE} | NAMELESS


def test_every_error_of_a_request_is_in_the_table() -> None:
    assert set(errors.RpcError.__subclasses__()) == set(errors.BY_CODE.values())


@pytest.mark.parametrize("code", list(errors.BY_CODE))
def test_an_error_is_named_like_its_code(code: grpc.StatusCode) -> None:
    assert errors.BY_CODE[code].__name__ == code.name.title().replace("_", "")


def test_an_error_survives_pickling() -> None:
    error = errors.ResourceExhausted(grpc.StatusCode.RESOURCE_EXHAUSTED, "No room.", 0.5)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.retry_after_s) == ("RESOURCE_EXHAUSTED: No room.", 0.5)


def test_an_image_error_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(errors.ImageError(2, grpc.StatusCode.INVALID_ARGUMENT, "Broken.")))
    assert (str(copy), copy.index, copy.code) == ("Image 2: Broken.", 2, grpc.StatusCode.INVALID_ARGUMENT)
