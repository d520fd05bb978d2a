"""Does in a folder what a Dockerfile says; knows the instructions that ours uses and refuses all others."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]

# The programs of the base image, as far as they are used.
BASE_PATH = f"{sys.base_prefix}/bin:/usr/bin:/bin"
# The folders of the image that instructions write to.
FOLDERS = ("/opt/vertebra", "/source")
RUN_WITHIN_S = 500


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
    value: str


@dataclass
class Image:
    """What a container of the image starts with."""

    environment: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    entrypoint: list[str] = field(default_factory=list)
    user: str = ""
    ports: list[int] = field(default_factory=list)
    stop_signal: str = ""


def read(path: Path) -> list[Instruction]:
    """The instructions of a Dockerfile, in order, without comments."""
    found = DockerfileParser(str(path)).structure
    return [Instruction(each["instruction"], each["value"]) for each in found if each["instruction"] != "COMMENT"]


def describe(instructions: list[Instruction]) -> Image:
    """What a container of the last stage starts with."""
    image = Image()
    for instruction in instructions:
        image = _described(image, instruction)
    return image


def build(instructions: list[Instruction], context: Path, root: Path) -> None:
    """Copy and run what the instructions say.

    The stages share one folder, so what one copies from another is there already.

    Args:
        instructions: A whole Dockerfile.
        context: The folder that is copied from.
        root: The empty folder that stands for the image's `/`.

    Raises:
        subprocess.CalledProcessError: A RUN has failed; the error has what it printed.
    """
    image, folder = Image(), root
    for instruction in instructions:
        image = _described(image, instruction)
        match instruction.name:
            case "WORKDIR":
                folder = Path(placed(instruction.value, root))
                folder.mkdir(parents=True)
            case "COPY":
                copy(instruction.value, context, folder)
            case "RUN":
                run(instruction.value, folder, placed_all(image.environment, root), root)


def placed(text: str, root: Path) -> str:
    """The text with the image's folders where they lie here."""
    for folder in FOLDERS:
        text = text.replace(folder, f"{root}{folder}")
    return text


def placed_all(environment: dict[str, str], root: Path) -> dict[str, str]:
    """The environment with the image's folders where they lie here."""
    return {name: placed(value, root) for name, value in environment.items()}


def copied(instruction: Instruction) -> list[str]:
    """What an instruction copies from the context."""
    return instruction.value.split()[:-1] if instruction.name == "COPY" and "--from=" not in instruction.value else []


def copy(value: str, context: Path, folder: Path) -> None:
    """Do what a COPY says."""
    *sources, target = value.split()
    if sources[0].startswith("--from="):
        assert sources[1:] == [target], f"Expected another stage's folder to keep its name. Received: {value}."
        return
    for source in sources:
        if (context / source).is_dir():
            shutil.copytree(context / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(context / source, folder / target)


def run(command: str, folder: Path, environment: dict[str, str], root: Path) -> None:
    """Do what a RUN says; which package index there is, is the machine's to say."""
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
    subprocess.run(
        ["sh", "-c", placed(command, root)],
        cwd=folder,
        env=kept | environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
    )


def _described(image: Image, instruction: Instruction) -> Image:
    value = instruction.value
    match instruction.name:
        case "FROM":
            return Image()
        case "ARG" | "ENV":
            pairs = (pair.partition("=") for pair in shlex.split(value))
            image.environment |= {name: Template(text).substitute(image.environment) for name, _, text in pairs}
        case "EXPOSE":
            image.ports = [int(each) for each in value.split()]
        case "ENTRYPOINT":
            image.entrypoint = json.loads(value)
        case "USER":
            image.user = value
        case "STOPSIGNAL":
            image.stop_signal = value
        case "WORKDIR" | "COPY" | "RUN":
            pass
        case other:
            raise NotImplementedError(f"Expected an instruction that this file knows. Received: {other}.")
    return image
