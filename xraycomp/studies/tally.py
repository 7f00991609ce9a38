"""What came of a study's trials: ``study.json`` and the table at the end."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd

from xraycomp.data.files import write_json
from xraycomp.pages.study import STUDY, write_study_page
from xraycomp.studies.claims import WORKER
from xraycomp.studies.storage import load_optuna
from xraycomp.studies.study import Study

_ENOUGH = 4
"""Fewer finished trials say nothing of importance."""


def write_tally(study: Study) -> dict[str, Any]:
    """Write ``study.json`` and ``study.html`` as the study is now, and return the former."""
    with study.lock():
        found = tally(study)
        write_json(study.path / STUDY, found)
        write_study_page(study.path)
    return found


def best_value(epochs: pd.DataFrame, monitor: str) -> float:
    """The monitored score of the best epoch of ``metrics.csv``."""
    return float(epochs[monitor].min() if monitor == "val_loss" else epochs[monitor].max())


def tally(study: Study) -> dict[str, Any]:
    """All of a study's trials, who is best, and what the score depends on, as JSON values.

    A trial's ``value`` is the monitored score of its best epoch so far; only complete ones count
    as ``best``.
    """
    plan, space = study.plan, study.space
    better = min if plan.minimized else max
    rows: list[dict[str, Any]] = []
    best: float | None = None
    for trial in study.load().get_trials():
        row = _row(study, trial, better)
        if row["state"] == "complete":
            best = row["value"] if best is None else better(best, row["value"])
        rows.append({**row, "best": best})
    complete = [row for row in rows if row["state"] == "complete"]
    return {
        "study": study.name,
        "title": space.title or Path(space.where).stem,
        "monitor": plan.settings["monitor"],
        "minimized": plan.minimized,
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "planned": plan.trials,
        "fields": space.searched,
        "best": better(complete, key=lambda row: row["value"])["number"] if complete else None,
        "importances": _importances(space.searched, complete),
        "combinations": _combinations(complete, plan.minimized) if "seed" in space.searched else [],
        "go_on": study.go_on(),
        "trials": rows,
    }


def _row(study: Study, trial: Any, better: Any) -> dict[str, Any]:
    known = trial.intermediate_values
    value = trial.value if trial.value is not None else better(known.values(), default=None)
    folder = study.run_folder(trial.number)
    attributes = trial.user_attrs
    return {
        "number": trial.number,
        "state": "failed" if trial.state.name == "FAIL" else trial.state.name.lower(),
        "params": study.fields_of(trial),
        "value": value,
        "epochs": max(known, default=0),
        "seconds": attributes.get(WORKER, {}).get("seconds"),
        "reason": attributes.get("reason", ""),
        "run": folder.name if folder.is_dir() else "",
    }


def _combinations(complete: Sequence[Mapping[str, Any]], minimized: bool) -> list[dict[str, Any]]:
    """What differs but for its seed, best mean first."""
    groups: dict[str, tuple[dict[str, Any], list[float]]] = {}
    for row in complete:
        params = {name: value for name, value in row["params"].items() if name != "seed"}
        groups.setdefault(str(sorted(params.items())), (params, []))[1].append(row["value"])
    found = [
        {
            "params": params,
            "n": len(values),
            "mean": mean(values),
            "sd": stdev(values) if len(values) > 1 else None,
        }
        for params, values in groups.values()
    ]
    return sorted(found, key=lambda one: one["mean"], reverse=not minimized)


def _importances(fields: Sequence[str], complete: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each field's share of the score's variance over the space, by fANOVA (Hutter et al. 2014);
    empty where there are too few trials, or one field alone differs.

    It is of fields as trials had them, so that one that is searched in several choices is one.
    """
    optuna = load_optuna()
    shared = [name for name in fields if all(name in row["params"] for row in complete)]
    columns = {name: [_plain(row["params"][name]) for row in complete] for name in shared}
    columns = {name: values for name, values in columns.items() if len(set(values)) > 1}
    if len(complete) < _ENOUGH or len(columns) < 2:
        return {}
    kinds = {name: _distribution(values) for name, values in columns.items()}
    scores = [row["value"] for row in complete]
    if max(scores) == min(scores):
        return {}
    study = optuna.create_study()
    study.add_trials(
        optuna.trial.create_trial(
            value=score,
            params={name: values[n] for name, values in columns.items()},
            distributions=kinds,
        )
        for n, score in enumerate(scores)
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: round(share, 4) for name, share in found.items()}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, list | tuple) else value


def _distribution(values: Sequence[Any]) -> Any:
    distributions = load_optuna().distributions
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return distributions.CategoricalDistribution(sorted(set(values), key=str))
    low, high = min(values), max(values)
    return distributions.FloatDistribution(low, high, log=low > 0 and high > 20 * low)


def format_best(found: Mapping[str, Any], most: int = 10) -> str:
    """The best trials as a table, or with several seeds the best combinations and their
    deviation."""
    combinations = found["combinations"]
    if combinations:
        rows = [
            {
                **{name: one["params"].get(name, "") for name in found["fields"] if name != "seed"},
                "seeds": one["n"],
                found["monitor"]: f"{one['mean']:.4f}",
                "±": "" if one["sd"] is None else f"{one['sd']:.4f}",
            }
            for one in combinations
        ]
    else:
        complete = [row for row in found["trials"] if row["state"] == "complete"]
        complete.sort(key=lambda row: row["value"], reverse=not found["minimized"])
        rows = [
            {
                **{name: row["params"].get(name, "") for name in found["fields"]},
                found["monitor"]: f"{row['value']:.4f}",
                "epochs": row["epochs"],
                "minutes": _minutes(row["seconds"]),
                "trial": row["number"],
            }
            for row in complete
        ]
    if not rows:
        return "No trial is complete yet."
    table = pd.DataFrame(rows[:most]).to_string(index=False)
    rest = len(rows) - most
    return f"{table}\n... and {rest} more" if rest > 0 else table


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None or math.isnan(seconds) else f"{seconds / 60:.1f}"
