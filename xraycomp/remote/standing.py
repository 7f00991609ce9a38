"""Does the validation score foretell the leaderboard? The ledger, read for that question."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

PAIRS_NEEDED = 3
_SHOWN = 3
_LOWER_IS_BETTER = {"log_loss"}


@dataclass(frozen=True)
class Standing:
    """One competition's submissions, and how validation and public score go together."""

    competition: str
    metric: str
    """What both scores are; of several metrics, the one of the newest scored row."""
    rows: pd.DataFrame
    """The ledger's rows with four columns more: ``val_rank``, ``public_rank`` (1 is best),
    ``residual`` (public score above the line through all pairs) and ``outside`` (public score
    outside the validation interval); NaN and False for rows that are no pair."""
    pairs: int
    """How many different files have both scores."""
    spearman: float | None
    """Correlation of ranks; None for fewer than ``PAIRS_NEEDED`` pairs or equal scores."""
    pearson: float | None


def standing(table: pd.DataFrame, competition: str) -> Standing:
    """Judge the ledger's rows of one competition; ``table`` is as ``read_ledger`` gives it."""
    rows = table[table["competition"] == competition].reset_index(drop=True)
    validation, public = _numbers(rows, "val_score"), _numbers(rows, "public_score")
    scored = validation.notna() & public.notna()
    metric = rows.loc[scored, "metric"].iloc[-1] if scored.any() else ""
    scored &= rows["metric"] == metric
    # A file that was sent twice is one piece of evidence.
    twice = rows["sha256"].where(scored & (rows["sha256"] != "")).duplicated(keep="last")
    scored &= ~(twice & (rows["sha256"] != ""))
    x, y = validation[scored], public[scored]
    ascending = metric in _LOWER_IS_BETTER
    outside = (public < _numbers(rows, "val_score_low")) | (
        public > _numbers(rows, "val_score_high")
    )
    spearman = pearson = None
    residual = pd.Series(np.nan, index=rows.index)
    if len(x) >= PAIRS_NEEDED and x.nunique() > 1 and y.nunique() > 1:
        from scipy.stats import pearsonr, spearmanr

        spearman = float(spearmanr(x, y).statistic)
        pearson = float(pearsonr(x, y).statistic)
        residual[scored] = y - np.polyval(np.polyfit(x, y, 1), x)
    rows = rows.assign(
        val_rank=x.rank(ascending=ascending, method="min"),
        public_rank=y.rank(ascending=ascending, method="min"),
        residual=residual,
        outside=outside & scored,
    )
    return Standing(competition, metric, rows, len(x), spearman, pearson)


def format_standing(found: Standing) -> str:
    """The submissions as a table, then what the two scores say of each other."""
    rows = found.rows
    shown = pd.DataFrame(
        {
            "sent (UTC)": rows["time"].str.slice(0, 16).str.replace("T", " "),
            "run": rows["run"].where(rows["run"] != "", rows["file"]),
            "kernel": rows["kernel_version"],
            "ref": rows["ref"],
            "validation": [_interval(row) for row in rows.to_dict("records")],
            "public": rows["public_score"],
            "private": rows["private_score"],
            "status": rows["status"],
        }
    )
    if not rows["kernel_version"].any():
        shown = shown.drop(columns="kernel")
    metric = f", validation by {found.metric}" if found.metric else ""
    head = f"{found.competition}: {len(rows):,} submissions{metric} (95 % interval)"
    failed = [
        f"{_name(row)} ({row['ref']}) could not be scored: {row['error'] or 'no reason given'}"
        for row in rows[rows["status"] == "ERROR"].to_dict("records")
    ]
    return "\n".join([head, shown.to_string(index=False), *failed, *agreement(found)])


def agreement(found: Standing) -> list[str]:
    """Sentences on what the two scores say of each other."""
    if found.pairs < PAIRS_NEEDED:
        return [
            f"How well validation foretells the leaderboard shows from {PAIRS_NEEDED} files with "
            f"both scores on; there are {found.pairs}."
        ]
    lines = []
    if found.spearman is None:
        lines.append(f"All {found.pairs} files have an equal score: there is no correlation.")
    else:
        lines.append(
            f"Validation against public score, {found.pairs} files: Spearman {found.spearman:.3f}, "
            f"Pearson {found.pearson:.3f} (1 is full agreement)."
        )
    pairs = found.rows[found.rows["public_rank"].notna()]
    apart = pairs[pairs["val_rank"] != pairs["public_rank"]]
    order = apart["residual"].abs().sort_values(ascending=False, kind="stable").index[:_SHOWN]
    if len(order):
        lines.append("Where the two rank differently, largest distance from the common line first:")
    for row in apart.loc[order].to_dict("records"):
        side = "above" if row["residual"] > 0 else "below"
        lines.append(
            f"  {_name(row)}: {row['val_rank']:.0f}. by validation, {row['public_rank']:.0f}. by "
            f"public score, {abs(row['residual']):.4f} {side} the line"
        )
    for row in pairs[pairs["outside"]].to_dict("records"):
        lines.append(
            f"  {_name(row)}: public score {row['public_score']} lies outside the validation "
            f"interval {_interval(row)}"
        )
    return lines


def _numbers(rows: pd.DataFrame, name: str) -> "pd.Series[float]":
    numbers: pd.Series[float] = pd.to_numeric(rows[name], errors="coerce").astype(float)
    return numbers


def _name(row: Mapping[Hashable, Any]) -> str:
    return str(row["run"] or row["file"])


def _interval(row: Mapping[Hashable, Any]) -> str:
    value, low, high = (row[f"val_score{end}"] for end in ("", "_low", "_high"))
    if not value:
        return ""
    shown = f"{float(value):.4f}"
    return f"{shown} ({float(low):.4f}-{float(high):.4f})" if low and high else shown
