"""The program vertebra-client: asks a server about files and prints; knows the client, not the wire."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from vertebra.client import embed as embedding
from vertebra.client import evaluate
from vertebra.client.answers import Classification, Embedding, Response
from vertebra.client.errors import FolderError, ImageError, RpcError, VertebraError
from vertebra.client.progress import Progress
from vertebra.client.sync import Client
from vertebra.client.table import aligned

# A request holds at most so many images and bytes, under any server's limits unless they were set very low. A larger
# file goes alone.
CHUNK_IMAGES = 16
CHUNK_BYTES = 32 * 2**20

# The classes of the lowest recall that a table shows; JSON has all of them.
WORST_CLASSES = 20

OK, BROKEN_IMAGE, FAILED = 0, 1, 2  # exit codes; argparse leaves with 2 as well
INTERRUPTED = 130  # what shells make of Ctrl-C

AnswerT = TypeVar("AnswerT")
Row: TypeAlias = tuple[str, ...]
Json: TypeAlias = dict[str, object]
Outcome: TypeAlias = tuple[str, int]  # what to print, and the exit code


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    # gRPC logs to stderr that a connection ended; the one line of fail() says so too, and better.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        with Client(arguments.address, deadline_s=arguments.deadline) as client:
            command: Callable[[Client, argparse.Namespace], Outcome] = arguments.command
            text, exit_code = command(client, arguments)
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}")
    except VertebraError as error:
        return fail(str(error))
    except UnicodeEncodeError as error:
        return fail(f"Expected UTF-8. Received: {error.object!r}.")
    except KeyboardInterrupt:
        return INTERRUPTED
    try:
        write(text)
    except OSError as error:
        return fail(f"standard output: {error.strerror}")
    return exit_code


def parser() -> argparse.ArgumentParser:
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("address", type=address, metavar="ADDRESS", help="host:port of the server")
    every.add_argument(
        "--deadline", type=seconds, default=30.0, metavar="S", help="seconds to wait for a request (default 30)"
    )
    every.add_argument("--json", action="store_true", help="print one JSON document")
    choosing = argparse.ArgumentParser(add_help=False, parents=[every])
    choosing.add_argument("--model", default="", help="the model's name; needed where the server has several")
    choosing.add_argument("--version", type=uint32, default=0, help="the model's version (the one that is served)")

    program = argparse.ArgumentParser(prog="vertebra-client", description="Ask a Vertebra server about images.")
    commands = program.add_subparsers(required=True, metavar="COMMAND")
    labels = commands.add_parser("classify", parents=[choosing], help="print the most probable labels of images")
    labels.add_argument("files", nargs="+", metavar="FILE", help="image files")
    labels.add_argument(
        "--top-k", type=uint32, default=5, metavar="K", help="at most this many labels for an image (default 5)"
    )
    labels.add_argument(
        "--min-probability",
        type=float,
        default=0.0,
        metavar="P",
        help="leave out less probable labels, 0 to 1 (default 0)",
    )
    labels.set_defaults(command=classify)
    vectors = commands.add_parser(
        "embed", parents=[choosing], help="print the embeddings of images, or write those of a folder into a file"
    )
    vectors.add_argument("files", nargs="+", metavar="FILE", help="image files; with --out one folder of them")
    vectors.add_argument(
        "--out",
        type=Path,
        metavar="X.npz",
        help="write the embeddings of a folder into this .npz or .parquet file; after an end before the end the same "
        "command goes on where it stopped",
    )
    vectors.set_defaults(command=embed)
    judged = commands.add_parser(
        "evaluate", parents=[choosing], help="print how many labelled images are answered rightly"
    )
    judged.add_argument("folder", metavar="DIR", help="folder that holds a folder of images per class")
    judged.set_defaults(command=judge)
    models = commands.add_parser("models", parents=[every], help="print the models of the server")
    models.set_defaults(command=list_models)
    return program


def address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or "/" in text or not port.isdigit():
        raise argparse.ArgumentTypeError(f"Expected host:port. Received: {text!r}.")
    return text


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"Expected a finite number of seconds above 0. Received: {text}.")
    return value


def uint32(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"Expected a number from 0 to {2**32 - 1}. Received: {text}.")
    return value


def classify(client: Client, arguments: argparse.Namespace) -> Outcome:
    responses = [
        client.classify(
            files,
            model=arguments.model,
            version=arguments.version,
            top_k=arguments.top_k,
            min_probability=arguments.min_probability,
        )
        for files in chunks(arguments.files)
    ]
    return report(arguments, responses, ("image", "label", "probability"), label_rows, label_json)


def label_rows(answer: Classification) -> list[Row]:
    # An image without a label of that probability still gets its row.
    return [(label.name, f"{label.probability:11.2%}") for label in answer.labels] or [("-",)]


def label_json(answer: Classification) -> Json:
    return asdict(answer)


def embed(client: Client, arguments: argparse.Namespace) -> Outcome:
    folders = [each for each in arguments.files if os.path.isdir(each)]
    if arguments.out is not None:
        if len(arguments.files) != 1 or not folders:
            raise FolderError(f"Expected one folder with --out. Received: {', '.join(arguments.files)}.")
        return embed_folder(client, arguments, Path(folders[0]))
    if folders:
        raise FolderError(f"Expected --out X.npz or --out X.parquet with the folder {folders[0]}. Received: no --out.")
    responses = [
        client.embed(files, model=arguments.model, version=arguments.version) for files in chunks(arguments.files)
    ]
    return report(arguments, responses, ("image", "shape", "norm", "vector"), vector_rows, vector_json)


def embed_folder(client: Client, arguments: argparse.Namespace, folder: Path) -> Outcome:
    out, part = arguments.out, embedding.part_of(arguments.out)
    with Progress(sys.stderr, "images") as progress:
        try:
            found = embedding.embed(
                client, folder, out, model=arguments.model, version=arguments.version, progress=progress.show
            )
        except (RpcError, KeyboardInterrupt):
            if part.exists():
                progress.note(f"What was answered is kept in {part}: the same command goes on from there.")
            raise
    exit_code = BROKEN_IMAGE if found.failed else OK
    if arguments.json:
        return document(asdict(found)), exit_code
    failed = aligned([(printable(each.file), f"error: {printable(each.message)}") for each in found.failed])
    resumed = f", {found.resumed} of them of an earlier run" if found.resumed else ""
    wrote = f"Wrote {printable(found.out)}: {found.images} embeddings{resumed}, {len(found.failed)} images failed.\n"
    return f"{failed}{wrote}{found.model.name} version {found.model.version}\n", exit_code


def vector_rows(answer: Embedding) -> list[Row]:
    vector = answer.vector
    first = " ".join(f"{number:.4f}" for number in vector[:4].tolist())
    more = " ..." if vector.size > 4 else ""
    return [(str(list(vector.shape)), f"{np.linalg.norm(vector):.4f}", first + more)]


def vector_json(answer: Embedding) -> Json:
    return {"embedding": answer.vector.tolist()}


def judge(client: Client, arguments: argparse.Namespace) -> Outcome:
    images = evaluate.read(arguments.folder)
    requests = list(chunks(list(images)))
    with Progress(sys.stderr, "images") as progress:
        found = evaluate.evaluate(
            client, images, requests, model=arguments.model, version=arguments.version, progress=progress.show
        )
    exit_code = BROKEN_IMAGE if found.broken else OK
    if arguments.json:
        return document(asdict(found)), exit_code
    return judgement(found), exit_code


def judgement(found: evaluate.Evaluation) -> str:
    overall = [(name, *percent(ratio)) for name, ratio in (("top-1", found.top_1), ("top-5", found.top_5)) if ratio]
    answered = sorted((each for each in found.classes if each.recall), key=lambda each: each.right / each.images)
    classes = [(printable(each.label), f"{each.images:>6}", *percent(each.recall)) for each in answered[:WORST_CLASSES]]
    errors = [(printable(each.file), f"error: {printable(each.message)}") for each in found.broken]
    images = f"{found.images} image{'s' if found.images != 1 else ''}"
    title = f"{found.model} version {found.version}, {images} answered, {len(errors)} broken\n"
    if len(answered) > WORST_CLASSES:
        title += f"the {WORST_CLASSES} classes of the lowest recall of {len(answered)} are shown\n"
    rows = [("", "value", "95 % interval"), *overall]
    header = ("class", "images", "recall", "95 % interval")
    parts = [title, aligned(rows) if overall else "", aligned([header, *classes]) if classes else "", aligned(errors)]
    return "\n".join(filter(None, parts))


def percent(ratio: evaluate.Ratio | None) -> Row:
    return (f"{ratio.value:6.1%}", f"{ratio.low:.1%} to {ratio.high:.1%}") if ratio else ()


def list_models(client: Client, arguments: argparse.Namespace) -> Outcome:
    models = client.list_models()
    if arguments.json:
        return document({"models": [asdict(model) for model in models]}), OK
    rows = [(m.name, str(m.version), m.state, m.precision, m.provider, m.error) for m in models]
    return aligned([("model", "version", "state", "precision", "provider", "error"), *rows]), OK


def chunks(files: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    chunk_bytes = 0
    for file in files:
        size_bytes = os.stat(file).st_size
        if chunk and (len(chunk) == CHUNK_IMAGES or chunk_bytes + size_bytes > CHUNK_BYTES):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append(file)
        chunk_bytes += size_bytes
    yield chunk


def report(
    arguments: argparse.Namespace,
    responses: Sequence[Response[AnswerT]],
    header: Row,
    to_rows: Callable[[AnswerT], list[Row]],
    to_json: Callable[[AnswerT], Json],
) -> Outcome:
    """The text to print for all responses, and the exit code that says whether every image was answered."""
    results = [result for response in responses for result in response.results]
    exit_code = BROKEN_IMAGE if any(isinstance(result, ImageError) for result in results) else OK
    rows: list[Row] = [header]
    images: list[Json] = []
    for file, result in zip(arguments.files, results, strict=True):
        if isinstance(result, ImageError):
            rows.append((printable(file), f"error: {result.message}"))
            images.append({"file": file, "error": {"code": result.code.name, "message": result.message}})
        else:
            rows += [(printable(file), *cells) for cells in to_rows(result)]
            images.append({"file": file} | to_json(result))
    if not arguments.json:
        return aligned(rows) + "\n" + summary(responses), exit_code
    requests = [{"model": asdict(response.model), "timing": asdict(response.timing)} for response in responses]
    return document({"images": images, "requests": requests}), exit_code


def summary(responses: Sequence[Response[AnswerT]]) -> str:
    """One line a model that answered, usually one in all: another version may take over between two requests."""
    lines = []
    for model in dict.fromkeys(response.model for response in responses):
        times = [response.timing for response in responses if response.model == model]
        lines.append(
            f"{model.name} version {model.version}, {len(times)} request{'s' if len(times) > 1 else ''}: "
            f"decode {sum(t.decode_ms for t in times):.1f} ms, queue {sum(t.queue_ms for t in times):.1f} ms, "
            f"infer {sum(t.infer_ms for t in times):.1f} ms, total {sum(t.total_ms for t in times):.1f} ms\n"
        )
    return "".join(lines)


def printable(text: str) -> str:
    # A line break in a file's name would break the table.
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def document(value: Json) -> str:
    return json.dumps(value, indent=2) + "\n"


def write(text: str) -> None:
    if sys.stdout is None:  # closed by the caller, as in `>&-`
        return
    encoding = sys.stdout.encoding
    try:
        # A file name or a label that the terminal cannot show is escaped, as Python does on stderr.
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at the end, and where that fails, too, the exit status is its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # A reader that has left has what it wanted.
        if not isinstance(error, BrokenPipeError):
            raise


def fail(message: str) -> int:
    if sys.stderr is not None:  # print() would take its place
        print("vertebra-client: error:", " ".join(message.split()), file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
