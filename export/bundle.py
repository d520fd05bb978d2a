"""A run becomes a bundle: every step in order; the steps themselves are in the other files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export import golden, graph, package, program, run, staging, verify
from export.progress import Steps
from service import bundle, cpu, proof
from service.engine import Engine
from service.image import ImageLimits


@dataclass(frozen=True)
class Order:
    """What to make of which run.

    Attributes:
        run: The run's folder.
        repository: A folder of `<model>/<version>/` bundles; it is made where there is none.
        model: The model's name.
        golden: A folder of golden images; None to generate them.
    """

    run: Path
    repository: Path
    model: str
    golden: Path | None


@dataclass(frozen=True)
class Made:
    """A bundle that was written and proven, and what was measured of it."""

    path: Path
    verifications: Sequence[verify.Verification]


def make(order: Order, steps: Steps) -> Made:
    """Make a bundle, whole or not at all.

    Args:
        order: What to make.
        steps: Tells of the five steps.

    Returns:
        The bundle.

    Raises:
        ExportError: A step failed; the message says what it expected.
        BundleError: The bundle does not load, or does not prove itself, as the service will have it do.
    """
    identity = package.identify(order.repository, order.model)
    target = order.repository / identity.model / str(identity.version)
    with steps.step("read the run"):
        source = run.read(order.run)
        model = run.read_program(order.run, source)
    with steps.step("collect golden images"):
        images = _golden(order, source)
        expected = program.answers(model, images.pixels)
    # Not in the model's folder: a failed first export leaves no model without a version.
    with staging.staged(target, beside=order.repository) as folder:
        with steps.step("convert to ONNX"):
            graph.convert(model, package.OUTPUTS, source.geometry, folder / package.GRAPH)
        with steps.step("verify against torch"):
            engine = Engine(folder / package.GRAPH, cpu.usable())
            found = verify.verify(engine, images.pixels, expected)
        with steps.step("package and prove"):
            package.write(folder, identity, package.Contents(source, model, images, expected, found))
            written = bundle.load(folder)
            proof.prove(written, Engine(written.graph, cpu.usable()))
    return Made(target, found)


def _golden(order: Order, source: run.Run) -> golden.GoldenSet:
    if order.golden is None:
        return golden.generate(source.geometry)
    return golden.collect(order.golden, source.geometry, ImageLimits())
