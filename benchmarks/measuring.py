"""What the benchmarks share: images on disk, ways that take turns, a table of what they took.

Nothing here needs torch, which would count for benchmarks that measure memory.
"""

import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from xraycomp.data.phantom import draw_competition

context = multiprocessing.get_context("spawn")
Run = Callable[[], float]
"""Does its work once and returns the seconds that count."""
Figures = dict[str, Any]
"""What is known of one way: spreads by name, or why nothing is, as ``missing``."""
NOT_INSTALLED: Figures = {"missing": "not installed"}
NOT_MEASURED: Figures = {"missing": "not measured"}


def draw_images(folder: Path, images: int, size: int) -> Path:
    """Draw ``images`` PNG of ``size`` px and return their folder, which has one folder a class."""
    draw_competition(folder, n_train=images, n_test=1, size=size)
    return folder / "train"


def stopwatch(work: Callable[[], object], times: int = 1) -> Run:
    """A run that times ``work``, until the GPU has done it too; the mean of several ``times``."""
    import torch

    def run() -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / times

    return run


def apart(make: Callable[[], Run]) -> Run:
    """The run that ``make`` makes, in a process of its own: what one way sets for its process
    (threads, memory, precision) then helps or hinders no other."""
    here, there = context.Pipe()
    context.Process(target=_serve, args=(make, there)).start()
    there.close()  # so that a process that dies is noticed

    def run() -> float:
        here.send("run")
        found = here.recv()
        if isinstance(found, Exception):
            raise found
        return float(found)

    return run


def _serve(make: Callable[[], Run], pipe: Connection) -> None:
    run = None
    with contextlib.suppress(EOFError):  # when the benchmark has ended
        while pipe.recv():
            try:
                run = run or make()
                pipe.send(run())
            except Exception as error:
                pipe.send(error)


def alternate(ways: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[float]]:
    """The seconds of every way in every round.

    The ways take turns, forwards and backwards, so that a drifting machine favours none. Each is
    made, and run once before what counts: file cache, workers and kernels are warm. A way whose
    package is not installed is left out.
    """
    runs: dict[str, Run] = {}
    for name, make in ways.items():
        try:
            runs[name] = make()
            runs[name]()
        except ModuleNotFoundError as error:
            runs.pop(name, None)
            print(f"{name} is left out: {error}", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs) if number % 2 else reversed(runs):
            seconds[name].append(runs[name]())
    return seconds


def spread(values: Iterable[float]) -> dict[str, float]:
    """Over the rounds, the median, the least and the greatest."""
    values = list(values)
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(over: Iterable[float], under: Iterable[float]) -> dict[str, float]:
    """The spread of a ratio that is taken within each round."""
    return spread(a / b for a, b in zip(over, under, strict=True))


def tabulate(
    names: Iterable[str], seconds: Mapping[str, list[float]], images: float
) -> dict[str, Figures]:
    """Of every way: seconds, images a second, and how many times as fast as the first it is.

    ``images`` is how many each way works through in the ``seconds`` of a round.
    """
    names = list(names)
    table: dict[str, Figures] = {}
    for name in names:
        if name not in seconds:
            table[name] = NOT_INSTALLED
            continue
        table[name] = {
            "seconds": spread(seconds[name]),
            "images_per_second": spread(images / each for each in seconds[name]),
            "ratio": ratios(seconds[names[0]], seconds[name]),
        }
    return table


def print_figures(
    title: str, table: Mapping[str, Figures], columns: Mapping[str, tuple[str, int]]
) -> None:
    """Print a table of spreads, ``median (least-greatest)``.

    ``columns`` gives each figure its heading and its number of decimals.
    """
    rows = [["", *(heading for heading, _ in columns.values())]]
    for name, figures in table.items():
        cells = [
            _cell(figures[column], digits) if column in figures else "-"
            for column, (_, digits) in columns.items()
        ]
        rows.append([name, figures["missing"]] if "missing" in figures else [name, *cells])
    print(f"\n{title}")
    print_table(rows)


def _cell(figure: Mapping[str, float], digits: int) -> str:
    median, low, high = (f"{figure[name]:,.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low}-{high})"


def print_table(rows: Iterable[Iterable[str]]) -> None:
    """Print columns as wide as they need, the first to the left; short rows end early."""
    lines = [list(row) for row in rows]
    widths = [
        max(len(line[column]) for line in lines if column < len(line))
        for column in range(len(lines[0]))
    ]
    for first, *others in lines:
        cells = (text.rjust(width) for text, width in zip(others, widths[1:], strict=False))
        print("  ".join([first.ljust(widths[0]), *cells]))
