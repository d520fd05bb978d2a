"""vertebra-train: flags and environment to a command, and what came of it to a person; trains nothing itself."""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, CliSubCommand, SettingsConfigDict, get_subcommand
from rich.console import Console

from export import command
from export.command import complaint, printable
from export.progress import Steps
from training.errors import TrainingError

if TYPE_CHECKING:
    from training.question import Question

_SETTINGS = SettingsConfigDict(frozen=True, env_prefix="VERTEBRA_", extra="forbid")
_LOAD = "load torch and timm"
_BACKBONE = "Name of the backbone; docs/backbones.md lists them. timm:NAME for any other model of timm."
_OUT = "Folder of the run, which must not exist yet. Its name becomes the model's."
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vertebra"
_CACHE_HELP = "Folder of what is computed once, to be deleted at will."
_WEIGHTS = "File of weights to take instead of the published ones: .safetensors, or .pth without code."
_DOWNLOAD = "Fetch published weights, and a data set given by name, where they are not on this machine."
_ON_BAD = "Whether to stop at files that cannot be used, or to leave them out and list them."


def _export(run: Path) -> str:
    return f"Export it with: vertebra-export bundle {shlex.quote(str(run))} --repository models"


class _OfImages(BaseSettings):
    """What every command that looks at labelled images must know."""

    model_config = _SETTINGS

    data: Path = Field(
        description="Folder with a folder per class, or with train and test folders of such; or a .csv or .parquet "
        "table with the columns path and label, and optionally split, group and weight; or torchvision:NAME or "
        "huggingface:NAME, where a configuration may follow after a colon."
    )
    backbone: str = Field(
        "auto",
        description=f"{_BACKBONE} auto takes the one of those on this machine on which a linear layer does best.",
    )
    weights: Path | None = Field(None, description=_WEIGHTS)
    download: bool = Field(False, description=_DOWNLOAD)
    cache: Path = Field(_CACHE, description=_CACHE_HELP)
    on_bad: Literal["error", "skip"] = Field("error", description=_ON_BAD)
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="Part of the images to test on, where the data names no splits."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Every random number follows from it; another tells what is luck.")
    crop_px: int | None = Field(
        None, ge=1, description="Side of the square that the backbone sees, in pixels. Without it: the backbone's own."
    )
    resize_px: int | None = Field(
        None,
        ge=1,
        description="What the shorter side becomes before the square is cut out, in pixels; as much as the crop keeps "
        "the whole frame. Without it: in proportion to the crop as the backbone's own.",
    )


def _question(asked: _OfImages) -> "Question":
    """Which images, and which backbone."""
    # Torch takes seconds to import, for which nobody waits who asks for help or has mistyped a flag.
    from training.dataset import Plan  # noqa: PLC0415
    from training.question import Question  # noqa: PLC0415

    return Question(
        source=asked.data,
        plan=Plan(asked.on_bad, asked.test_fraction, asked.seed),
        backbone=asked.backbone,
        cache=asked.cache,
        weights=asked.weights,
        download=asked.download,
        resize_px=asked.resize_px,
        crop_px=asked.crop_px,
    )


class Fit(_OfImages):
    """Make the best model of your images that the data and the time allow, and say why it is that one."""

    out: Path = Field(description=_OUT)
    init: Path | None = Field(
        None, description="Folder that pretrain wrote, to begin with its weights instead of the published ones."
    )
    regime: Literal[
        "auto", "as-is", "small-similar", "small-different", "large-similar", "large-different", "scratch"
    ] = Field(
        "auto",
        description="What is trained: small-similar a head on the frozen backbone; small-different that on all stages, "
        "or the last stages as well; large-similar the late stages; large-different everything; scratch everything, "
        "from a random start. auto goes by evidence and tries what is plausible.",
    )
    time_limit_min: float = Field(
        60.0,
        gt=0,
        description="How long it may take about, in minutes: of more images than there is time for some are learnt "
        "from.",
    )
    unfreeze_from: str | None = Field(
        None,
        description="First part of the backbone that trains: a stage, c1 to c5 (docs/backbones.md lists them), or top, "
        "what runs behind the last one.",
    )
    epochs: int | None = Field(None, ge=1, description="How often fine-tuning shows each image.")
    rate: Literal["recipe/10", "recipe", "range test"] | Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Learning rate: a tenth of the one that the backbone was pretrained with, that one, what a range "
        "test finds, or a number.",
    )
    batch_size: int | None = Field(None, ge=1, description="Images a step of fine-tuning.")
    optimizer: Literal["sgd", "adamw"] | None = Field(None, description="sgd has a momentum of 0.9, after Nesterov.")
    batch_norm: Literal["eval", "train"] | None = Field(
        None,
        description="What the batch norms of trained parts go by: eval the statistics that they came with, train those "
        "of each batch.",
    )
    augmentation: Literal["none", "light", "medium", "strong"] | None = Field(
        None, description="How far fine-tuning changes images. Without it: as far as the regime asks for."
    )
    turns: bool = Field(False, description="No side of the images is up: fine-tuning turns them by quarters.")
    deterministic: bool = Field(
        False,
        description="The same command on the same machine gives the same weights, as long as --time-limit-min does not "
        "cut it or its race short: fine-tuning computes as plain fp32 instead of what is measured to be faster.",
    )
    head: Literal["linear", "mlp", "cosine"] = Field(
        "linear",
        description="What reads a frozen backbone: mlp for many images, which takes minutes; cosine for a handful a "
        "class.",
    )
    views: int = Field(
        0,
        ge=0,
        le=100,
        description="More views of each training image for a head to learn from: the first is its mirror image, the "
        "others are random crops. Each costs as much time as all images do.",
    )

    cached_views: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Give each image so many looks for all epochs of a fine-tuning, instead of another one in each, "
        "and keep what the frozen part of the backbone makes of them: an epoch costs only the part that trains.",
    )

    plan: list[str] = Field(
        [],
        description="Any other setting of a fine-tuning, as NAME=VALUE; may be given several times: weight_decay, "
        "layer_decay, warm_up, clip_norm, label_smoothing, dropout, l2_sp, average, average_over, refit_head, "
        "imbalance, patience, precision, channels_last or compile, which docs/regimes.md explains.",
    )

    def cli_cmd(self) -> None:
        """Make the run, then print how good it is and where it lies."""
        # Of the processes that torchrun started one speaks for all.
        first = os.environ.get("RANK", "0") == "0"
        steps = Steps(9, Console(stderr=True, quiet=not first))
        with steps.step(_LOAD):
            # As above.
            from training import fit  # noqa: PLC0415
            from training.tuning import determinism  # noqa: PLC0415

        wished = ("unfreeze_from", "epochs", "rate", "batch_size", "optimizer", "batch_norm", "cached_views")
        changes = {name: value for name in wished if (value := getattr(self, name)) is not None} | _settings(self)
        question = replace(_question(self), weights=_begun(self), regime=self.regime, limit_s=60 * self.time_limit_min)
        order = fit.Order(
            question=question,
            head=self.head,
            views=self.views,
            out=self.out,
            changes=changes | (determinism.insist() if self.deterministic else {}),
            augmentation=self.augmentation,
            turns=self.turns,
        )
        made = fit.fit(order, steps)
        if first:
            print("\n".join(made.result.summary()))
            print(f"Wrote {self.out}, look at {self.out / 'report.html'}. {_export(self.out)}")


def _settings(asked: Fit) -> dict[str, object]:
    """What --plan says, checked."""
    # As above.
    from training.tuning.plan import Plan  # noqa: PLC0415

    if wrong := [each for each in asked.plan if "=" not in each]:
        raise TrainingError(f"Expected for --plan NAME=VALUE. Received: {printable(wrong[0])}.")
    figures = dict(each.split("=", 1) for each in asked.plan)
    known = [name for name in Plan.model_fields if name not in Fit.model_fields]
    if unknown := sorted(figures.keys() - set(known)):
        raise TrainingError(f"Expected for --plan one of {', '.join(known)}. Received: {printable(unknown[0])}.")
    if asked.deterministic and (twice := sorted(figures.keys() & {"precision", "channels_last"})):
        raise TrainingError(f"Expected --deterministic or --plan {twice[0]}. Received: both.")
    try:
        plan = Plan.model_validate({"unfreeze_from": None, **figures})
    except ValidationError as error:
        name = str(error.errors(include_url=False)[0]["loc"][0])
        raise TrainingError(f"--plan {name}: {complaint(error, name)}") from error
    return {name: getattr(plan, name) for name in figures}


def _begun(asked: Fit) -> Path | None:
    """The file of weights to begin with; None for the published ones."""
    if asked.init is None:
        return asked.weights
    if asked.weights is not None or asked.regime == "scratch":
        other = "--regime scratch" if asked.weights is None else "--weights"
        raise TrainingError(f"Expected one start. Received: --init and {other}.")
    # As above.
    from training.pretraining import record  # noqa: PLC0415

    return record.weights(asked.init)


class Advise(_OfImages):
    """Say which regime suits your images, and why; nothing is trained."""

    def cli_cmd(self) -> None:
        """Print the decision."""
        print(_decided(self, ["all"])[0])


class Probe(_OfImages):
    """Print how well a linear layer on each stage of the backbone does on your images."""

    layers: list[str] = Field(
        ["all"], description="all, or the places in the backbone to print, by the names that the table of all has."
    )

    def cli_cmd(self) -> None:
        """Print the table."""
        print(_decided(self, self.layers)[1])


def _decided(asked: _OfImages, layers: list[str]) -> tuple[str, str]:
    """The decision, and the table of the probes of these layers, in words."""
    steps = Steps(6, Console(stderr=True))
    with steps.step(_LOAD):
        # As above.
        from training.advice import advise, explain  # noqa: PLC0415

    decision = advise.of(_question(asked), steps, layers)
    return explain.explain(decision), explain.probe_table(decision.evidence, layers)


class Pretrain(BaseSettings):
    """Let a backbone learn from images without labels, for fit --init to go on from."""

    model_config = _SETTINGS

    data: Path = Field(
        description="Folder with images anywhere below it, or a table or name as for fit; labels are not looked at, "
        "and what is held out there for validation and test is passed over."
    )
    out: Path = Field(description="Folder of what comes of it, which must not exist yet.")
    backbone: str = Field("efficientnet_lite0", description=_BACKBONE)
    method: Literal["vicreg", "denoising", "autoencoder"] = Field(
        "vicreg",
        description="vicreg learns to tell images apart by comparing two views of each; denoising to clean noisy "
        "pictures with holes; autoencoder to find pictures again.",
    )
    start: Literal["random", "pretrained"] = Field(
        "random", description="What it begins with: pretrained to bring published weights nearer to your images."
    )
    weights: Path | None = Field(None, description="With --start pretrained: a file to take instead of the published.")
    download: bool = Field(False, description=_DOWNLOAD)
    epochs: int = Field(50, ge=1, description="How often each image is shown.")
    batch_size: int = Field(128, ge=2, description="Images a step; vicreg learns better from more than from fewer.")
    rate: float | None = Field(
        None, gt=0, description="Highest learning rate. Without it: 0.001 for a batch of 128, a tenth when pretrained."
    )
    turns: bool = Field(False, description="No side of the images is up: they are turned by quarters.")
    cache: Path = Field(_CACHE, description=_CACHE_HELP)
    on_bad: Literal["error", "skip"] = Field("error", description=_ON_BAD)
    seed: int = Field(0, ge=0, lt=2**32, description="Every random number follows from it.")
    crop_px: int | None = Field(None, ge=1, description="As for fit.")
    resize_px: int | None = Field(None, ge=1, description="As for fit.")

    def cli_cmd(self) -> None:
        """Make the weights, then print how the loss fell."""
        if self.start == "random" and self.weights is not None:
            raise TrainingError("Expected one start. Received: --weights, and a random one. Add --start pretrained.")
        steps = Steps(5, Console(stderr=True))
        with steps.step(_LOAD):
            # As above.
            from training.pretraining import pretrain  # noqa: PLC0415

        made = pretrain.pretrain(
            pretrain.Order(
                source=self.data,
                on_bad=self.on_bad,
                backbone=self.backbone,
                method=self.method,
                start=self.start,
                weights=self.weights,
                download=self.download,
                resize_px=self.resize_px,
                crop_px=self.crop_px,
                epochs=self.epochs,
                batch_size=self.batch_size,
                rate=self.rate,
                turns=self.turns,
                seed=self.seed,
                cache=self.cache,
                out=self.out,
            ),
            steps,
        )
        print("\n".join(made.summary()))
        sides = {"--crop-px": self.crop_px, "--resize-px": self.resize_px}
        shown = "".join(f" {flag} {side}" for flag, side in sides.items() if side is not None)
        print(
            f"Wrote {self.out}. Go on with: vertebra-train fit --init {shlex.quote(str(self.out))} "
            f"--backbone {self.backbone}{shown} --data LABELLED --out RUN"
        )


class Compare(_OfImages):
    """Train one backbone from published weights, from pretrainings and from random numbers, and draw their curves."""

    backbone: str = Field("efficientnet_lite0", description=_BACKBONE)
    out: Path = Field(description="Folder of what comes of it, which must not exist yet.")
    init: list[Path] = Field([], description="Folder that pretrain wrote; may be given several times.")
    pretrained: bool = Field(True, description="Whether the published weights are compared, too.")
    fractions: list[float] = Field(
        [0.01, 0.1, 1.0],
        min_length=1,
        description="Parts of the training images whose labels are used, each above 0 and at most 1.",
    )
    epochs: int = Field(
        10, ge=1, description="How often each image is shown; of few images more often, up to ten times as often."
    )
    batch_size: int = Field(64, ge=2, description="Images a step.")
    reach: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Accuracy on validation whose epoch and minute are told. Without it: 95 % of the best start's.",
    )

    def cli_cmd(self) -> None:
        """Compare, then print the table."""
        if wrong := [each for each in self.fractions if not 0 < each <= 1]:
            raise TrainingError(f"Expected parts of the images, above 0 and at most 1. Received: {wrong[0]:g}.")
        steps = Steps(3, Console(stderr=True))
        with steps.step(_LOAD):
            # As above.
            from training import compare  # noqa: PLC0415

        found = compare.compare(
            compare.Order(
                question=_question(self),
                pretrained=self.pretrained,
                init=tuple(self.init),
                fractions=tuple(self.fractions),
                epochs=self.epochs,
                batch_size=self.batch_size,
                reach=self.reach,
                out=self.out,
            ),
            steps,
        )
        print("\n".join(found.lines()))
        print(f"Wrote {self.out}, look at {self.out / 'comparison.html'}.")


class Extract(BaseSettings):
    """Write a backbone's features of your images to a file, for use elsewhere; nothing is learnt."""

    model_config = _SETTINGS

    data: Path = Field(description="Labelled images, as for fit.")
    backbone: str = Field(description=_BACKBONE)
    weights: Path | None = Field(None, description=_WEIGHTS)
    download: bool = Field(False, description=_DOWNLOAD)
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
            self.weights,
            self.download,
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


class Visualize(BaseSettings):
    """Write pictures of a model: its first filters, what each stage makes of your images, what its answers rest on."""

    model_config = _SETTINGS

    model: CliPositionalArg[str] = Field(description="Folder of a run, or the name of a backbone.")
    weights: Path | None = Field(None, description=f"Of a backbone. {_WEIGHTS}")
    download: bool = Field(False, description=_DOWNLOAD)
    images: Path = Field(
        description="Folder with images anywhere below it, or a table like images.csv of a run, of which those count "
        "that were held out. At most 16 are drawn."
    )
    out: Path = Field(description="Folder to write the pictures to, which must not exist yet.")

    def cli_cmd(self) -> None:
        """Write the pictures, then print what the model took each image for."""
        steps = Steps(3, Console(stderr=True))
        with steps.step(_LOAD):
            # As above.
            from training.insight import visualize  # noqa: PLC0415

        order = visualize.Order(self.model, self.images, self.out, self.weights, self.download)
        drawn = visualize.visualize(order, steps)
        print("\n".join(each.words() for each in drawn))
        print(f"Wrote {self.out}.")


class AsIs(BaseSettings):
    """Make a run of a published model as it is, with its own classes."""

    model_config = _SETTINGS

    backbone: CliPositionalArg[str] = Field(description=_BACKBONE)
    weights: Path | None = Field(None, description=_WEIGHTS)
    download: bool = Field(False, description=_DOWNLOAD)
    out: Path = Field(description=_OUT)

    def cli_cmd(self) -> None:
        """Make the run, then print where it lies."""
        steps = Steps(4, Console(stderr=True))
        with steps.step(_LOAD):
            # Here, so that --help answers at once and these seconds are seen as a step.
            from training import regimes  # noqa: PLC0415

        made = regimes.as_is(self.backbone, self.out, steps, self.weights, self.download)
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

    fit: CliSubCommand[Fit] = Field(description="Make the best model of your images that the data and the time allow.")
    advise: CliSubCommand[Advise] = Field(description="Say which regime suits your images, and why.")
    probe: CliSubCommand[Probe] = Field(description="Print how well a linear layer on each stage does on your images.")
    pretrain: CliSubCommand[Pretrain] = Field(description="Let a backbone learn from images without labels.")
    compare: CliSubCommand[Compare] = Field(description="Draw curves from pretrained, self-pretrained, random starts.")
    extract: CliSubCommand[Extract] = Field(description="Write a backbone's features of your images to a file.")
    describe: CliSubCommand[Describe] = Field(description="Print what is in a run.")
    visualize: CliSubCommand[Visualize] = Field(description="Write pictures of a model: filters, stages, Grad-CAM.")
    as_is: CliSubCommand[AsIs] = Field(description="Make a run of a published model as it is, with its own classes.")
    refresh: CliSubCommand[Refresh] = Field(description="Rebuild a run's model.pt2 for the torch that is installed.")

    def cli_cmd(self) -> None:
        """Run the command that was given."""
        if get_subcommand(self, is_required=False) is None:
            raise TrainingError(
                "Expected a command: fit, advise, probe, pretrain, compare, extract, describe, visualize, as-is or "
                "refresh. Received: none. See --help"
            )
        CliApp.run_subcommand(self)


def main() -> int:
    """Run the program; see command.run for the exit status."""
    return command.run(Train, TrainingError, "what is in the cache need not be computed again")


if __name__ == "__main__":
    sys.exit(main())
