"""Every setting of the service, from flags, VERTEBRA_* variables and a TOML file, in that order; reads nothing else."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

_FILE_VARIABLE = "VERTEBRA_CONFIG_FILE"


class Config(BaseSettings):
    """Serve the models of a repository over gRPC, with health, reflection and Prometheus metrics.

    A setting is taken from its flag, else from its variable (VERTEBRA_MAX_BATCH), else from the TOML file that
    VERTEBRA_CONFIG_FILE names, if it names one.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="VERTEBRA_",
        cli_kebab_case=True,
        cli_prog_name="vertebra-serve",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    repository: Path = Field(description="Folder of <model>/<version>/ bundles, as vertebra-export makes it.")
    address: str = Field(
        "127.0.0.1:8001",
        description="Where gRPC listens, host:port. Port 0 takes a free one. In a container: 0.0.0.0:8001.",
    )
    metrics_address: str = Field(
        "127.0.0.1:8002",
        description="Where /metrics listens on HTTP, host:port. Port 0 takes a free one. In a container: 0.0.0.0:8002.",
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="Threads of the engine, and as many that decode. 0 means the CPUs of the cgroup's quota."
    )
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = Field(
        "auto",
        description="What runs the models; refused where it cannot work. auto is cuda where there is a GPU, else cpu.",
    )
    max_batch: Annotated[int, Field(ge=1, le=128)] = Field(
        16,
        description="Most images run at once; the warm-up finds out which sizes up to it pay. More may pay on a GPU.",
    )
    queue_limit: Annotated[int, Field(ge=1)] = Field(
        128, description="Images of a model admitted and not yet answered; more are refused. Bounds latency and memory."
    )
    max_images: Annotated[int, Field(ge=1)] = Field(64, description="Most images in a request. At most queue_limit.")
    max_request_bytes: Annotated[int, Field(ge=1, le=10**9)] = Field(
        64 * 2**20, description="Largest request, in bytes."
    )
    max_inflight_bytes: Annotated[int, Field(ge=1)] = Field(
        256 * 2**20,
        description="Most bytes of images held at once; more are refused. gRPC's copies take twice as much again.",
    )
    max_inflight_pixels: Annotated[int, Field(ge=1)] = Field(
        200_000_000,
        description="Most pixels to be decoded at once, after a JPEG's scaling; more are refused. Up to 16 bytes each.",
    )
    max_image_bytes: Annotated[int, Field(ge=1)] = Field(16 * 2**20, description="Largest encoded image, in bytes.")
    max_image_pixels: Annotated[int, Field(ge=1, le=170_000_000)] = Field(
        50_000_000,
        description="Largest image, width times height in its header. Decoding takes up to 16 bytes a pixel.",
    )
    default_deadline_s: Annotated[float, Field(gt=0)] = Field(
        30.0, description="How long a caller who names no deadline waits, in seconds."
    )
    max_connection_age_s: Annotated[int, Field(ge=1)] = Field(
        300,
        description="How long a connection lasts, in seconds, so that callers find servers that were added since. "
        "No call is cut off.",
    )
    grace_s: Annotated[float, Field(ge=0)] = Field(
        20.0, description="How long requests may take to finish after SIGTERM or SIGINT, in seconds."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG logs every call; INFO those that were wrong, but not what overload refuses."
    )
    log_format: Literal["json", "text"] = Field("json", description="json for a log collector, text for a person.")

    @model_validator(mode="after")
    def _whole_requests_fit(self) -> "Config":
        if self.max_images > self.queue_limit:
            raise ValueError(
                f"Expected max_images to be at most queue_limit, {self.queue_limit}: a request is admitted whole. "
                f"Received: {self.max_images}."
            )
        # A progressive JPEG is held whole beside its smaller copy.
        most = {"max_inflight_bytes": self.max_request_bytes, "max_inflight_pixels": self.max_image_pixels * 5 // 4}
        for name, least in most.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"Expected {name} to be at least {least}, what one request may need. "
                    f"Received: {getattr(self, name)}."
                )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read flags first (they come as init settings), then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        file = os.environ.get(_FILE_VARIABLE)
        if file is None:
            return init_settings, env_settings
        try:
            if Path(file).is_file():
                return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"Expected {_FILE_VARIABLE} to name a TOML file. Received: {file!r}: {error}.") from error
        raise ValueError(f"Expected {_FILE_VARIABLE} to name a TOML file. Received: {file!r}, no file.")
