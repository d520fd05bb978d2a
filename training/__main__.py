"""vertebra-train: flags and environment to a command, and what came of it to a person; trains nothing itself."""

import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, CliSubCommand, SettingsConfigDict, get_subcommand
from rich.console import Console

from export import command
from export.progress import Steps
from training.errors import TrainingError

_SETTINGS = SettingsConfigDict(frozen=True, env_prefix="VERTEBRA_", extra="forbid")
_LOAD = "load torch and timm"


class AsIs(BaseSettings):
    """Make a run of a published model as it is, with its own classes."""

    model_config = _SETTINGS

    backbone: CliPositionalArg[str] = Field(description="Name of the backbone: efficientnet_lite0.")
    out: Path = Field(description="Folder of the run, which must not exist yet. Its name becomes the model's.")

    def cli_cmd(self) -> None:
        """Make the run, then print where it lies."""
        steps = Steps(4, Console(stderr=True))
        with steps.step(_LOAD):
            # Here, so that --help answers at once and these seconds are seen as a step.
            from training import regimes  # noqa: PLC0415

        made = regimes.as_is(self.backbone, self.out, steps)
        print(
            f"Wrote {self.out}: {made.backbone.name}, {len(made.labels)} labels, {made.regime.name}. "
            f"Export it with: vertebra-export {self.out} --repository models"
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
    )

    as_is: CliSubCommand[AsIs] = Field(description="Make a run of a published model as it is, with its own classes.")
    refresh: CliSubCommand[Refresh] = Field(description="Rebuild a run's model.pt2 for the torch that is installed.")

    def cli_cmd(self) -> None:
        """Run the command that was given."""
        if get_subcommand(self, is_required=False) is None:
            raise TrainingError("Expected a command, as-is or refresh. Received: none. See vertebra-train --help")
        CliApp.run_subcommand(self)


def main() -> int:
    """Run the program; see command.run for the exit status."""
    return command.run(Train, TrainingError)


if __name__ == "__main__":
    sys.exit(main())
