"""An exported network at work in onnxruntime, and how fast it is."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraycomp.model.export_onnx import INPUT, require

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 films of one size, (batch, height, width), to probabilities, (batch, n_classes)."""

_BATCH = 32
_ROUNDS = 9
_LEAST_SECONDS = 0.1  # that one way takes in a round; shorter ones say more of the clock


def open_session(path: Path, threads: int = 1) -> Infer:
    """The network at ``path`` on the CPU. Raises ``UserError`` where onnxruntime is missing."""
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def infer(films: NDArray[np.uint8]) -> NDArray[np.float32]:
        probs: NDArray[np.float32] = session.run(None, {INPUT: films})[0]
        return probs

    return infer


def infer_batches(infer: Infer, films: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Probabilities of many films of one size, uint8 (n, height, width): shape (n, n_classes)."""
    batches = range(0, len(films), _BATCH)
    parts = [infer(films[begin : begin + _BATCH]) for begin in batches]
    return np.concatenate(parts).astype(np.float64)


def compare_speed(before: Infer, after: Infer, film: NDArray[np.uint8]) -> dict[str, float]:
    """How long both take for ``film`` (uint8, (height, width)) alone and in a batch of 32.

    Processor time is what counts: with one thread it is what a clock shows where nothing else runs.
    The two take turns, so that a machine that is busy elsewhere slows both down alike.

    Returns ``{"rounds": int}`` and for ``single`` and ``batch`` the medians ``<which>_before_ms``
    and ``<which>_after_ms`` (of a call) and ``<which>_ratio`` (of the ratios within a round).
    """
    found: dict[str, float] = {"rounds": _ROUNDS}
    for which, count in {"single": 1, "batch": _BATCH}.items():
        films = np.repeat(film[None], count, axis=0)
        ways: Mapping[str, Infer] = {"before": before, "after": after}
        slowest = max(_seconds(infer, films, 1) for infer in (before, after, before, after))
        times = max(1, round(_LEAST_SECONDS / slowest))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(_ROUNDS):
            for name in list(ways) if number % 2 else reversed(list(ways)):
                seconds[name].append(_seconds(ways[name], films, times))
        pairs = zip(seconds["before"], seconds["after"], strict=True)
        found[f"{which}_ratio"] = statistics.median(a / b for a, b in pairs)
        for name, all_seconds in seconds.items():
            found[f"{which}_{name}_ms"] = 1000 * statistics.median(all_seconds)
    return found


def _seconds(infer: Infer, films: NDArray[np.uint8], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        infer(films)
    return (time.process_time() - began) / times
