"""vertebra-export: flags and environment to an order, and what came of it to a person; makes nothing itself."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, CliSubCommand, SettingsConfigDict, get_subcommand
from rich.console import Console

from export import command
from export.errors import ExportError
from export.progress import Steps

if TYPE_CHECKING:
    from export.verify import Verification


_SETTINGS = SettingsConfigDict(frozen=True, env_prefix="VERTEBRA_", extra="forbid")


class Bundle(BaseSettings):
    """Make a bundle of a run: an ONNX graph, verified against torch, that vertebra-serve serves."""

    model_config = _SETTINGS

    run: CliPositionalArg[Path] = Field(description="Folder of a run, as vertebra-train makes it.")
    repository: Path = Field(
        description="Folder of <model>/<version>/ bundles that receives the bundle; made where there is none."
    )
    name: str | None = Field(
        None, description="Name of the model. Without it: the run folder's; give one to serve it under another."
    )
    golden: Path | None = Field(
        None,
        description="Folder of images, at least 16, that prove the bundle wherever it is loaded. "
        "Without it: generated ones; the graph is verified on them too, and images like those to be served prove more.",
    )

    def cli_cmd(self) -> None:
        """Make the bundle, then print where it lies and how near it came to torch."""
        steps = Steps(6, Console(stderr=True))
        with steps.step("load torch"):
            # Here, so that --help answers at once and these seconds are seen as a step.
            from export import bundle  # noqa: PLC0415

        order = bundle.Order(self.run, self.repository, self.name or self.run.resolve().name, self.golden)
        made = bundle.make(order, steps)
        print(_table(made.verifications))
        print(f"\nWrote {made.path}. Serve it with: vertebra-serve --repository {shlex.quote(str(self.repository))}")


class Evaluate(BaseSettings):
    """Tell how good a bundle is on labelled images, through the engine that serves it."""

    model_config = _SETTINGS

    bundle: CliPositionalArg[Path] = Field(description="Folder of a bundle: <repository>/<model>/<version>.")
    data: Path = Field(
        description="Folder with a folder per class, or with a test folder of such; or a .csv or .parquet table with "
        "the columns path and label."
    )
    json_: bool = Field(False, alias="json", description="Print one JSON document.")

    def cli_cmd(self) -> None:
        """Evaluate the bundle, then print the figures."""
        steps = Steps(4, Console(stderr=True))
        # As above.
        from export import evaluate  # noqa: PLC0415

        found = evaluate.evaluate(self.bundle, self.data, steps)
        print(found.scores.model_dump_json(indent=2) if self.json_ else evaluate.table(found))


class Export(BaseSettings):
    """Make bundles of runs, and tell how good they are.

    A setting is taken from its flag, else from its variable (VERTEBRA_REPOSITORY).
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="VERTEBRA_",
        extra="forbid",
        cli_prog_name="vertebra-export",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags="toggle",
    )

    bundle: CliSubCommand[Bundle] = Field(description="Make a bundle of a run.")
    evaluate: CliSubCommand[Evaluate] = Field(description="Tell how good a bundle is on labelled images.")

    def cli_cmd(self) -> None:
        """Run the command that was given."""
        if get_subcommand(self, is_required=False) is None:
            raise ExportError("Expected a command, bundle or evaluate. Received: none. See vertebra-export --help")
        CliApp.run_subcommand(self)


def _table(verifications: Sequence["Verification"]) -> str:
    lines = ["output      batch   lowest cosine   largest difference   top-1 agreement"]
    for each in verifications:
        top1 = f"{each.top1_agreement:.1%}" if each.output == "logits" else ""
        cosine, difference = f"{each.lowest_cosine:.7f}", f"{each.largest_difference:.1e}"
        lines.append(f"{each.output:<12}{each.batch_size:>5}{cosine:>16}{difference:>21}{top1:>18}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Run the program; see command.run for the exit status."""
    return command.run(Export)


if __name__ == "__main__":
    sys.exit(main())
