"""What an export was checked to be, as plain text for the terminal."""

from typing import Any

from xraycomp.judging.comparison_table import OVERALL
from xraycomp.judging.table import aligned

LOST_BOUND = 0.005
"""Macro AUROC that is more than int8 should cost."""
_SLOW = 1.1  # times as fast: not worth another file


def format_export(report: dict[str, Any]) -> str:
    """Lay out what `export_run` returned, no newline at the end."""
    sizes = [["file", "MB", "sha256"]]
    for name, facts in report["files"].items():
        sizes.append([name, f"{facts['bytes'] / 1e6:.1f}", facts["sha256"][:16]])
    check = report["check"]
    checks = [
        ["largest difference of a probability", "", "images"],
        ["network, of torch's", f"{check['network']:.1e}", f"{check['images']:,}"],
        ["resize, of PIL's", f"{check['resize']:.1e}", f"{check['image_files']:,}"],
        ["file to probability", f"{check['whole']:.1e}", f"{check['image_files']:,}"],
    ]
    parts = [sizes, checks]
    if "speed" in report:
        parts += [_accuracy(report["accuracy"]), _speed(report["speed"])]
    return "\n\n".join([*map(aligned, parts), *_warnings(report)])


def _accuracy(found: dict[str, Any]) -> list[list[str]]:
    rows = [[f"on {found.get('n', 0):,} images", "float32", "int8", "difference (95 % CI)"]]
    for name, figure in found.get("overall", {}).items():
        moved = figure["difference"]
        if moved["value"] is None:
            rows.append([OVERALL[name], "n/a", "n/a", "n/a"])
            continue
        text = f"{moved['value']:+.4f}"
        if moved["low"] is not None:
            text += f" ({moved['low']:+.4f} to {moved['high']:+.4f})"
        rows.append([OVERALL[name], f"{figure['a']:.4f}", f"{figure['b']:.4f}", text])
    return rows


def _speed(found: dict[str, Any]) -> list[list[str]]:
    height, width = found["image"]
    rows = [[f"one thread, {width} x {height} px", "float32", "int8", "times as fast"]]
    for which, name in {"single": "one image, ms", "batch": "batch of 32, ms"}.items():
        times = [f"{found[f'{which}_{way}_ms']:.2f}" for way in ("before", "after")]
        rows.append([name, *times, f"{found[f'{which}_ratio']:.2f}"])
    return rows


def _warnings(report: dict[str, Any]) -> list[str]:
    said = []
    lost = report.get("accuracy", {}).get("overall", {}).get("macro_auroc", {}).get("difference")
    if lost and lost["value"] is not None and lost["value"] < -LOST_BOUND:
        said.append(
            f"WARNING: int8 costs {-lost['value']:.3f} of the macro AUROC. Use the float32 file."
        )
    if "speed" in report and report["speed"]["single_ratio"] < _SLOW:
        said.append(
            "int8 is smaller, but here no faster: this network's time is not in what 8 bits speed "
            "up (ResNets gain most)."
        )
    return said
