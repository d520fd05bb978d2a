"""The demo: two models are made, a service serves both, a client asks them; types only what a user types.

`imagenet` is a published backbone as it is, `elpv` a head trained on images of solar cells. `make demo` runs this. What
it makes lies in .demo/ and is used again by the next run; `make clean` removes it.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.demo import cells
from deploy.demo.cells import Cell
from vertebra.client import Client

ROOT = Path(__file__).parents[2]
WORK = Path(".demo")  # below ROOT, where every command of the demo runs
RUNS, MODELS, GOLDEN, PHOTOGRAPHS = WORK / "runs", WORK / "models", WORK / "golden", WORK / "photographs"
CELLS = WORK / "elpv"
# The whole frame: what is wrong with a cell may be at its edge.
ON_CELLS = ["--data", f"{CELLS}/cells.csv", "--crop-px", "224", "--resize-px", "224", "--cache", f"{WORK}/cache"]
BACKBONE = "efficientnet_lite0"
ASKED_CELLS, NEIGHBOURS = 6, 3
LOG = WORK / "service.log"
PROGRAMS = Path(sys.executable).parent
READY_WITHIN_S = 60.0
NO_MODEL = "no model could be loaded; staying up so that health and ListModels can say so"
INTERRUPTED = 130


@dataclass(frozen=True)
class Addresses:
    """Where the service listens."""

    grpc: str
    metrics: str


def main() -> int:
    """Make what is missing, serve it, ask it, print what came back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after the answers instead of serving on")
    once = parser.parse_args().once
    # However the demo is ended, also by closing its terminal, it ends the service that it started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    started_s = time.monotonic()
    answered = False
    try:
        photographs = copy_photographs()
        make_imagenet(photographs)
        known = make_elpv()
        with service() as addresses, Client(addresses.grpc) as client:
            ask_about_photographs(client, photographs)
            ask_about_cells(client, known)
            answered = True
            print(f"\ngRPC     {addresses.grpc}\nmetrics  http://{addresses.metrics}/metrics")
            print(f"\nThe demo's own work took {time.monotonic() - started_s:.1f} s.", flush=True)
            if not once:
                serve_on(addresses, photographs)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0 if answered else INTERRUPTED
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    return 0


def copy_photographs() -> list[Path]:
    """The two photographs that scikit-learn ships (CC BY 2.0, by their authors)."""
    (ROOT / PHOTOGRAPHS).mkdir(parents=True, exist_ok=True)
    names = ["china.jpg", "flower.jpg"]
    for name in names:
        source = resources.files("sklearn.datasets") / "images" / name
        (ROOT / PHOTOGRAPHS / name).write_bytes(source.read_bytes())
    return [PHOTOGRAPHS / name for name in names]


def make_imagenet(photographs: list[Path]) -> None:
    """The published model and its bundle, unless an earlier demo has made them."""
    if not (ROOT / RUNS / "imagenet").exists():
        run("vertebra-train", "as-is", BACKBONE, "--out", f"{RUNS}/imagenet")
    if not is_made("imagenet"):
        cut_golden(photographs)
        run(
            "vertebra-export",
            "bundle",
            f"{RUNS}/imagenet",
            "--repository",
            str(MODELS),
            "--golden",
            f"{GOLDEN}/photographs",
        )


def make_elpv() -> list[Cell]:
    """A head trained on solar cells, its bundle and the features of all cells, unless an earlier demo has made them."""
    known = cells.read()
    if not (ROOT / RUNS / "elpv").exists():
        print(f"{cells.LICENCE}\n", flush=True)
        cells.write_table(known, ROOT / CELLS / "cells.csv")
        run("vertebra-train", "fit", *ON_CELLS, "--regime", "small-similar", "--out", f"{RUNS}/elpv")
    if not (ROOT / CELLS / "features.npz").exists():
        run("vertebra-train", "extract", *ON_CELLS, "--backbone", BACKBONE, "--out", f"{CELLS}/features.npz")
    if not is_made("elpv"):
        cells.copy_golden(known, ROOT / GOLDEN / "cells")
        export("elpv", GOLDEN / "cells")
    return known


def export(model: str, golden: Path) -> None:
    """The bundle of a run."""
    run("vertebra-export", "bundle", f"{RUNS}/{model}", "--repository", str(MODELS), "--golden", str(golden))


def is_made(model: str) -> bool:
    """Whether an earlier demo has made a model's bundle; says so."""
    made = (ROOT / MODELS / model / "1/manifest.json").exists()
    if made:
        print(f"Using the model that an earlier run made: {MODELS / model / '1'}", flush=True)
    return made


def cut_golden(photographs: list[Path]) -> None:
    """Sixteen real pictures to prove the model on: eight cuts of each photograph, of different sizes and shapes."""
    (ROOT / GOLDEN / "photographs").mkdir(parents=True, exist_ok=True)
    for photograph in photographs:
        with Image.open(ROOT / photograph) as picture:
            for index in range(8):
                left, top = 37 * (index % 4), 61 * (index // 4)
                cut = picture.crop((left, top, left + 250 + 41 * index, top + 360 - 19 * index))
                cut.save(ROOT / GOLDEN / "photographs" / f"{photograph.stem}-{index}.jpg", quality=95)


def run(program: str, *arguments: str) -> None:
    """Show a command and run it."""
    command = [program, *arguments]
    print(f"$ {shlex.join(command)}", flush=True)
    with subprocess.Popen([PROGRAMS / program, *arguments], cwd=ROOT) as process:
        try:
            exit_code = process.wait()
        except KeyboardInterrupt:
            # Ctrl-C on a terminal has reached it too; it cleans up after itself, and is given the time for it.
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
            raise
    if exit_code:
        raise subprocess.CalledProcessError(exit_code, command)
    print(flush=True)


@contextmanager
def service() -> Iterator[Addresses]:
    """The service, on free ports of this machine."""
    arguments = ["--repository", str(MODELS), "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"]
    print(f"$ {shlex.join(['vertebra-serve', *arguments])} 2> {LOG}", flush=True)
    with (ROOT / LOG).open("w") as log:
        # In a session of its own: Ctrl-C reaches the demo alone, which then stops the service.
        process = subprocess.Popen(
            [PROGRAMS / "vertebra-serve", *arguments], cwd=ROOT, stderr=log, start_new_session=True
        )
    try:
        started_s = time.monotonic()
        addresses = wait_until_serving(process, started_s + READY_WITHIN_S)
        print(f"serving after {time.monotonic() - started_s:.1f} s\n", flush=True)
        yield addresses
    finally:
        process.terminate()
        process.wait()


def wait_until_serving(process: subprocess.Popen[bytes], deadline_s: float) -> Addresses:
    """Follow the service's log until it says that it serves."""
    while time.monotonic() < deadline_s and process.poll() is None:
        lines = {line["message"]: line for line in read_log()}
        if NO_MODEL in lines:
            break
        if "serving" in lines:
            return Addresses(lines["listening"]["address"], lines["listening"]["metrics_address"])
        time.sleep(0.05)
    sys.stderr.write((ROOT / LOG).read_text())
    raise SystemExit("Expected the service to serve. Received: its log, above. `rm -r .demo` makes the model anew.")


def read_log() -> list[dict[str, Any]]:
    """The whole lines of the service's log."""
    lines = (ROOT / LOG).read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def ask_about_photographs(client: Client, photographs: list[Path]) -> None:
    """Ask the published model what is on each photograph, and print the answers."""
    print(f"{'image':<12} {'label':<28} {'probability':>11}   milliseconds")
    embeddings = []
    for photograph in photographs:
        response = client.analyze([ROOT / photograph], model="imagenet", answers=["labels", "embedding"], top_k=3)
        (analysis,) = response.answers()
        assert analysis.embedding is not None
        embeddings.append(analysis.embedding)
        timing = response.timing
        stages = f"decode {timing.decode_ms:.1f}, queue {timing.queue_ms:.1f}, infer {timing.infer_ms:.1f}"
        for index, label in enumerate(analysis.labels):
            name, where = (photograph.name, stages) if index == 0 else ("", "")
            print(f"{name:<12} {label.name:<28} {label.probability:>10.1%}    {where}".rstrip())
    a, b = embeddings
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    print(f"\ncosine between the two embeddings ({len(a)} numbers each): {cosine:.3f}\n")


def ask_about_cells(client: Client, known: list[Cell]) -> None:
    """Ask the trained model about cells that it has not learnt from, and look for the nearest that it has."""
    asked = cells.held_out(known, ASKED_CELLS)
    response = client.analyze([cell.path for cell in asked], model="elpv", answers=["labels", "embedding"], top_k=1)
    with np.load(ROOT / CELLS / "features.npz") as features:
        learnt = features["split"] == "train"
        index, paths, labels = (features[name][learnt] for name in ("embedding", "path", "label"))
    index /= np.linalg.norm(index, axis=1, keepdims=True)  # [cells, D]
    print(
        f"{'held-out cell':<14} {'expert':<12} {'answer':<12} {'probability':>11}   nearest cells that were learnt from"
    )
    for cell, analysis in zip(asked, response.answers(), strict=True):
        assert analysis.embedding is not None
        cosines = index @ (analysis.embedding / np.linalg.norm(analysis.embedding))
        nearest = np.argsort(-cosines)[:NEIGHBOURS]
        shown = ", ".join(f"{Path(paths[each]).stem} {labels[each]} {cosines[each]:.2f}" for each in nearest)
        (label,) = analysis.labels
        print(f"{cell.path.stem:<14} {cell.label:<12} {label.name:<12} {label.probability:>10.1%}    {shown}")


def serve_on(addresses: Addresses, photographs: list[Path]) -> None:
    """Say how to ask the service, and wait for Ctrl-C."""
    print(
        f"\nAsk it yourself:\n  .venv/bin/vertebra-client classify {addresses.grpc} {photographs[0]} --model imagenet"
    )
    print(f"Look at how elpv was trained:\n  {RUNS}/elpv/report.html")
    print("\nServing until Ctrl-C.", flush=True)
    signal.pause()


if __name__ == "__main__":
    sys.exit(main())
