#!/usr/bin/env python3
"""xraycomp-edge: images and an ONNX file that ``python -m xraycomp.export`` wrote -> probabilities.

It needs onnxruntime, numpy and pillow, and nothing of the kit that trained the network.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import signal
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# From 1.29 on onnxruntime tells its maker what it runs, unless this is set before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from PIL import Image

__version__ = "1.0.0"

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_AT_ONCE = 4  # batches whose images are in memory


class Mistake(Exception):  # noqa: N818 - the user's
    """What the user can mend, in one sentence."""


@dataclass(frozen=True)
class Network:
    """An exported network, and what its file says of it."""

    session: onnxruntime.InferenceSession
    classes: list[str]
    """What the probabilities are of, in their order."""
    thresholds: np.ndarray | None
    """From which probability on each finding is called; None where an image has one class."""

    @classmethod
    def load(cls, path: Path, threads: int) -> "Network":
        """Raises ``Mistake`` for a file that is missing, damaged, or not exported by the kit."""
        if not path.is_file():
            raise Mistake(f"There is no model {path}. Check the path.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # a damaged file may fail anywhere
            raise Mistake(f"{path} is damaged or not an ONNX model. Export it anew.") from error
        about = session.get_modelmeta().custom_metadata_map
        try:
            classes = json.loads(about["classes"])
            several = about["task"] == "multilabel"
            thresholds = np.array(json.loads(about["thresholds"])) if several else None
        except (KeyError, ValueError) as error:
            raise Mistake(
                f"{path} was not written by python -m xraycomp.export. Export it anew."
            ) from error
        return cls(session, classes, thresholds)

    def called(self, probs: np.ndarray) -> list[str]:
        """What is called of probabilities of shape (n_classes,)."""
        if self.thresholds is None:
            return [self.classes[int(probs.argmax())]]
        hits = probs >= self.thresholds
        return [name for name, hit in zip(self.classes, hits, strict=True) if hit]

    def judge(self, films: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
        """Probabilities of uint8 films of any sizes, each (height, width): (n, n_classes).

        Films of one size go through together.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, film in enumerate(films):
            by_size.setdefault(film.shape, []).append(place)
        probs = np.empty((len(films), len(self.classes)), np.float32)
        for places in by_size.values():
            for begin in range(0, len(places), batch_size):
                batch = places[begin : begin + batch_size]
                given = {"images": np.stack([films[place] for place in batch])}
                probs[batch] = self.session.run(None, given)[0]
        return probs


def load_gray(path: Path) -> np.ndarray:
    """An image file as 8-bit gray, (height, width), as the network was trained on.

    Colour by luma, a palette through its colours, without transparency; 16 bits are scaled to 8.
    """
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            # PIL's own conversion clips at 255 instead of scaling.
            wide = np.asarray(image, dtype=np.float32)
            return np.clip(np.rint(wide / 257), 0, 255).astype(np.uint8)
        return np.asarray((image.convert("RGB") if image.mode == "P" else image).convert("L"))


def find_images(given: Sequence[Path]) -> list[tuple[str, Path]]:
    """The name and the path of every image: files as given, of a folder all below it, sorted.

    Beside others a folder's images have its name before theirs, since two may hold the same.

    Raises ``Mistake`` for what is not there, and where there is no image at all.
    """
    found: list[tuple[str, Path]] = []
    for path in given:
        if not path.exists():
            raise Mistake(f"There is nothing at {path}. Check the path.")
        if path.is_file():
            found.append((str(path), path))
            continue
        below = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES]
        names = [(file.relative_to(path), file) for file in below if file.is_file()]
        visible = [pair for pair in names if not any(p.startswith(".") for p in pair[0].parts)]
        alone = len(given) == 1
        found += [(name.as_posix() if alone else str(file), file) for name, file in sorted(visible)]
    if not found:
        raise Mistake("There are no images there. Check the paths.")
    return found


def predict(
    network: Network, images: list[tuple[str, Path]], *, batch_size: int, threads: int, strict: bool
) -> Iterator[tuple[str, np.ndarray | str]]:
    """The name of each image and its probabilities, or why it is broken, in order.

    Raises ``Mistake`` for a broken one where ``strict``.
    """

    def decode(path: Path) -> np.ndarray | str:
        try:
            return load_gray(path)
        except UNDECODABLE as error:
            return "empty file" if not path.stat().st_size else str(error) or type(error).__name__

    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, len(images), _AT_ONCE * batch_size):
            some = images[begin : begin + _AT_ONCE * batch_size]
            decoded = list(pool.map(decode, [path for _, path in some]))
            for (_, path), film in zip(some, decoded, strict=True):
                if strict and isinstance(film, str):
                    raise Mistake(
                        f"{path} does not decode ({film}). Leave it out, or leave --strict out."
                    )
            films = [film for film in decoded if not isinstance(film, str)]
            probs = iter(network.judge(films, batch_size))
            for (name, _), film in zip(some, decoded, strict=True):
                yield name, film if isinstance(film, str) else next(probs)


def as_csv(network: Network, rows: list[tuple[str, np.ndarray]]) -> str:
    """One row an image: its name, a probability a class, what it is called (findings by |)."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", *network.classes, "called"])
    for name, probs in rows:
        table.writerow([name, *(f"{p:.6f}" for p in probs), "|".join(network.called(probs))])
    return text.getvalue()


def as_json(network: Network, rows: list[tuple[str, np.ndarray]]) -> str:
    """A list of objects with ``image``, ``probs`` by class, and the list ``called``."""
    found: list[dict[str, Any]] = [
        {
            "image": name,
            "probs": {c: round(float(p), 6) for c, p in zip(network.classes, probs, strict=True)},
            "called": network.called(probs),
        }
        for name, probs in rows
    ]
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def write(text: str, path: Path | None) -> None:
    """To a file, whole or not at all, or to stdout."""
    if path is None:
        sys.stdout.write(text)
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def run(args: argparse.Namespace) -> int:
    """Do what the flags say; the exit code is 1 where images were broken."""
    for flag in ("batch_size", "threads"):
        if getattr(args, flag) < 1:
            name = flag.replace("_", "-")
            raise Mistake(f"--{name} is {getattr(args, flag)}; it must be at least 1.")
    if args.output and args.output.is_dir():
        raise Mistake(f"--output {args.output} is a folder. Name a file.")
    if args.output and not args.output.absolute().parent.is_dir():
        raise Mistake(f"There is no folder {args.output.absolute().parent}. Make it first.")
    network = Network.load(args.model, args.threads)
    images = find_images(args.images)
    rows: list[tuple[str, np.ndarray]] = []
    began = time.perf_counter()
    for name, found in predict(
        network, images, batch_size=args.batch_size, threads=args.threads, strict=args.strict
    ):
        if isinstance(found, str):
            print(f"{name} is left out: {found}.", file=sys.stderr)
        else:
            rows.append((name, found))
    seconds = time.perf_counter() - began
    if not rows:
        raise Mistake("No image decodes, so there is nothing to predict.")
    write((as_json if args.format == "json" else as_csv)(network, rows), args.output)
    speed = f"{len(rows) / seconds:,.1f} images/s"
    print(f"{len(rows):,} images in {seconds:.2f} s: {speed}.", file=sys.stderr)
    return int(len(rows) < len(images))


def main() -> None:
    """Read the flags, predict, and leave the process with its exit code."""
    parser = argparse.ArgumentParser(
        prog="xraycomp-edge", description="Probabilities of chest X-rays by an exported network."
    )
    parser.add_argument("model", type=Path, help="ONNX file of python -m xraycomp.export")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    parser.add_argument("--format", choices=("csv", "json"), default="csv")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: stdout")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--strict", action="store_true", help="stop at a broken image")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = 1
    try:
        code = run(args)
        sys.stdout.flush()
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # such as of a head after it
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"{error.strerror or error}{where}.", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
