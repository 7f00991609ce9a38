"""What the page shows of single films: heat maps and whether they point well, labels in doubt."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xraycomp.judging.doubts import DOUBTS, SHEET
from xraycomp.judging.explanation import COLUMNS
from xraycomp.pages.pictures import Pictures
from xraycomp.pages.run_files import DOUBT, EXPLAIN, Entry, RunFiles, damaged, entry

KINDS = {"error": "Most confident errors", "hit": "Typical hits", "asked": "Asked for"}
_SHEET_SIDE = 1400
SHOWN = 24
"""Labels in doubt that are shown."""


def doubts(run: RunFiles, pictures: Pictures) -> dict[str, Any] | None:
    """Labels that the model contradicts most, with the sheet of their films; without one, with the
    films that there are heat maps of."""
    columns = ["image", "label", "label_prob", "suggested", "suggested_prob"]
    rows = run.table(DOUBTS, columns)
    if rows is None:
        return None
    sheet = pictures.take(run.path, SHEET, _SHEET_SIDE)
    maps = [] if sheet else _maps(run)
    films = {row["image"]: (folder, row["film"]) for folder, row in maps}
    shown: list[dict[str, Any]] = []
    with damaged(run.path / DOUBTS, run.command(DOUBT)):
        for row in rows[:SHOWN]:
            numbers = {key: float(row[key]) for key in ("label_prob", "suggested_prob")}
            folder, film = films.get(row["image"], (run.path, ""))
            shown.append({**row, **numbers, "film": pictures.take(folder, film)})
    return {"rows": shown, "total": len(rows), "sheet": sheet}


def gallery(run: RunFiles, pictures: Pictures) -> list[dict[str, Any]] | None:
    """Films with their heat maps, by kind: errors first."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    rows = _maps(run)
    if not rows:
        return None
    for folder, row in rows:
        with damaged(folder / "maps.csv", run.command(EXPLAIN)):
            item: dict[str, Any] = {
                **row,
                "prob": float(row["prob"]),
                "outside": float(row["outside"]) if row["outside"] else None,
                "split": folder.name,
            }
            found[row["kind"]].append(item)
    # A picture of each kind in turn, so that no kind goes without where not all can be shown.
    for item in filter(None, itertools.chain(*itertools.zip_longest(*found.values()))):
        folder = run.path / "explain" / item["split"]
        item["film"] = pictures.take(folder, item["film"])
        item["overlay"] = pictures.take(folder, item["overlay"])
    return [
        {"title": title, "kind": kind, "items": found[kind]}
        for kind, title in KINDS.items()
        if found[kind]
    ]


def locations(run: RunFiles) -> dict[str, Any] | None:
    """Whether heat maps of validation images point at the boxes around their findings."""
    name = "explain/val/localisation.json"
    content = run.json(name, EXPLAIN)
    if content is None:
        return None
    with damaged(run.path / name, run.command(EXPLAIN)):
        parts = list(content["classes"].items())
        parts += [("all", content["all"]), ("all, where called", content["called"])]
        return {
            "threshold": float(content["threshold"]),
            "rows": [(name, *_located(part)) for name, part in parts],
        }


def _located(part: Mapping[str, Any]) -> tuple[int, Entry, Entry, float | None]:
    """How many boxed images, the pointing game, the overlap, and how often chance points well."""
    return int(part["n"]), entry(part["pointing_game"]), entry(part["iou"]), part["box_share"]


def _maps(run: RunFiles) -> list[tuple[Path, dict[str, str]]]:
    """The rows of every ``explain/<split>/maps.csv``, validation first, each with its folder."""
    found = []
    for split in ("val", "test", "train"):
        for row in run.table(f"explain/{split}/maps.csv", COLUMNS) or []:
            found.append((run.path / "explain" / split, row))
    return found
