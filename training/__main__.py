"""vertebra-train: flags and environment to a command, and what came of it to a person; trains nothing itself."""

import os
import shlex
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, CliSubCommand, SettingsConfigDict, get_subcommand
from rich.console import Console

from export import command
from export.progress import Steps
from training.errors import TrainingError

_SETTINGS = SettingsConfigDict(frozen=True, env_prefix="VERTEBRA_", extra="forbid")
_LOAD = "load torch and timm"
_BACKBONE = "Name of the backbone: efficientnet_lite0."
_OUT = "Folder of the run, which must not exist yet. Its name becomes the model's."
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vertebra"
_CACHE_HELP = "Folder of what is computed once, to be deleted at will."
_ON_BAD = "Whether to stop at files that cannot be used, or to leave them out and list them."


def _export(run: Path) -> str:
    return f"Export it with: vertebra-export bundle {shlex.quote(str(run))} --repository models"


class Fit(BaseSettings):
    """Train a head on a frozen backbone's features of your images, and make a run of both."""

    model_config = _SETTINGS

    data: Path = Field(
        description="Folder with a folder per class, or with train and test folders of such; or a .csv or .parquet "
        "table with the columns path and label, and optionally split, group and weight."
    )
    backbone: str = Field(description=_BACKBONE)
    out: Path = Field(description=_OUT)
    cache: Path = Field(_CACHE, description=_CACHE_HELP)
    on_bad: Literal["error", "skip"] = Field("error", description=_ON_BAD)
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Part of the images to test on, where the data names no splits."
    )
    seed: int = Field(0, ge=0, description="Draws the split and the folds; another tells how much is luck.")
    head: Literal["linear", "mlp", "cosine"] = Field(
        "linear",
        description="What reads the features: mlp for many images, which takes minutes; cosine for a handful a class.",
    )
    views: int = Field(
        0,
        ge=0,
        le=100,
        description="More views of each training image to learn from: the first is its mirror image, the "
        "others are random crops. Each costs as much time as all images do.",
    )
    crop_px: int | None = Field(
        None, ge=1, description="Side of the square that the backbone sees, in pixels. Without it: the backbone's own."
    )
    resize_px: int | None = Field(
        None,
        ge=1,
        description="What the shorter side becomes before the square is cut out, in pixels; as much as the crop keeps "
        "the whole frame. Without it: in proportion to the crop as the backbone's own.",
    )

    def cli_cmd(self) -> None:
        """Make the run, then print how good it is and where it lies."""
        steps = Steps(8, Console(stderr=True))
        with steps.step(_LOAD):
            # As above.
            from training import fit  # noqa: PLC0415
            from training.dataset import Plan  # noqa: PLC0415

        order = fit.Order(
            source=self.data,
            plan=Plan(self.on_bad, self.test_fraction, self.seed),
            backbone=self.backbone,
            resize_px=self.resize_px,
            crop_px=self.crop_px,
            head=self.head,
            views=self.views,
            cache=self.cache,
            out=self.out,
        )
        print("\n".join(fit.fit(order, steps).result.summary()))
        print(f"Wrote {self.out}, look at {self.out / 'report.html'}. {_export(self.out)}")


class Extract(BaseSettings):
    """Write a backbone's features of your images to a file, for use elsewhere; nothing is learnt."""

    model_config = _SETTINGS

    data: Path = Field(description="Folder or table of labelled images, as for fit.")
    backbone: str = Field(description=_BACKBONE)
    out: Path = Field(description="File that ends in .npz or .parquet; its manifest is written beside it.")
    cache: Path = Field(_CACHE, description=_CACHE_HELP)
    on_bad: Literal["error", "skip"] = Field("error", description=_ON_BAD)
    crop_px: int | None = Field(None, ge=1, description="As for fit.")
    resize_px: int | None = Field(None, ge=1, description="As for fit.")
    all_taps: bool = Field(
        False, description="Write the pooled stages and probes as well, seven times as much as the embedding alone."
    )

    def cli_cmd(self) -> None:
        """Write the file, then print what is in it."""
        steps = Steps(5, Console(stderr=True))
        with steps.step(_LOAD):
            # As above.
            from training import extract  # noqa: PLC0415

        order = extract.Order(
            self.data,
            self.backbone,
            self.resize_px,
            self.crop_px,
            self.all_taps,
            self.out,
            self.cache,
            self.on_bad,
        )
        made = extract.extract(order, steps)
        print(f"Wrote {self.out}: {made.rows} rows, {', '.join(f'{tap} [{n}]' for tap, n in made.taps.items())}.")


class Describe(BaseSettings):
    """Print what is in a run: data, backbone, what is frozen and what was trained, and how good it is."""

    model_config = _SETTINGS

    run: CliPositionalArg[Path] = Field(description="Folder of the run.")

    def cli_cmd(self) -> None:
        """Print the description."""
        # As above; no step, because there is nothing else to wait for.
        from training import description  # noqa: PLC0415

        print(description.describe(self.run))


class AsIs(BaseSettings):
    """Make a run of a published model as it is, with its own classes."""

    model_config = _SETTINGS

    backbone: CliPositionalArg[str] = Field(description=_BACKBONE)
    out: Path = Field(description=_OUT)

    def cli_cmd(self) -> None:
        """Make the run, then print where it lies."""
        steps = Steps(4, Console(stderr=True))
        with steps.step(_LOAD):
            # Here, so that --help answers at once and these seconds are seen as a step.
            from training import regimes  # noqa: PLC0415

        made = regimes.as_is(self.backbone, self.out, steps)
        print(
            f"Wrote {self.out}: {made.backbone.name}, {len(made.labels)} labels, {made.regime.name}. "
            f"{_export(self.out)}"
        )


class Refresh(BaseSettings):
    """Rebuild a run's model.pt2 for the torch that is installed."""

    model_config = _SETTINGS

    run: CliPositionalArg[Path] = Field(description="Folder of the run.")

    def cli_cmd(self) -> None:
        """Rebuild the program, then print where it lies."""
        steps = Steps(3, Console(stderr=True))
        with steps.step(_LOAD):
            # As above.
            from training import refresh  # noqa: PLC0415

        refresh.refresh(self.run, steps)
        print(f"Rebuilt {self.run / 'model.pt2'}.")


class Train(BaseSettings):
    """Make runs, from which vertebra-export makes bundles.

    A setting is taken from its flag, else from its variable (VERTEBRA_OUT).
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="VERTEBRA_",
        extra="forbid",
        cli_prog_name="vertebra-train",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags="toggle",
    )

    fit: CliSubCommand[Fit] = Field(description="Train a head on a frozen backbone's features of your images.")
    extract: CliSubCommand[Extract] = Field(description="Write a backbone's features of your images to a file.")
    describe: CliSubCommand[Describe] = Field(description="Print what is in a run.")
    as_is: CliSubCommand[AsIs] = Field(description="Make a run of a published model as it is, with its own classes.")
    refresh: CliSubCommand[Refresh] = Field(description="Rebuild a run's model.pt2 for the torch that is installed.")

    def cli_cmd(self) -> None:
        """Run the command that was given."""
        if get_subcommand(self, is_required=False) is None:
            raise TrainingError(
                "Expected a command: fit, extract, describe, as-is or refresh. Received: none. See --help"
            )
        CliApp.run_subcommand(self)


def main() -> int:
    """Run the program; see command.run for the exit status."""
    return command.run(Train, TrainingError)


if __name__ == "__main__":
    sys.exit(main())
