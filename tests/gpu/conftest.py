"""What runs only where a GPU does: `pytest -m gpu`; elsewhere it is skipped and says why."""

import pytest

from service import providers
from service.errors import ProviderMissing


@pytest.fixture(scope="session")
def cuda() -> providers.Provider:
    """The CUDA provider, after it has run a graph."""
    try:
        return providers.find("cuda")
    except ProviderMissing as error:
        pytest.skip(f"no GPU: not run. {error}")
