"""A study that many processes share: what it searches, and its trials."""

import contextlib
import json
import shlex
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from xraycomp.console.errors import UserError
from xraycomp.data.files import write_text
from xraycomp.studies.space import Space, parse_space
from xraycomp.studies.storage import find_study, load_optuna, locked, open_storage

Sampler = Literal["", "grid", "random", "tpe"]
Pruner = Literal["none", "asha", "hyperband"]

_PLAN, _KEY = "plan", "key"
_OWNER = "study.key"
"""The file that says to which study the trials in its folder belong."""
_SECONDS_TO_MAKE = 60.0


@dataclass(frozen=True)
class Plan:
    """What a study searches and how; every process that joins it does the same."""

    space: str
    """The TOML text."""
    settings: Mapping[str, Any]
    """The training configuration that trials share, as JSON values."""
    sampler: Sampler
    pruner: Pruner
    trials: int
    """How many trials the study is to have."""
    seeds: int = 0
    """With how many seeds each combination of a grid is trained; 0: as the space has it."""
    sampler_seed: int = 0

    def read_space(self, where: str) -> Space:
        """The space, with the seeds."""
        return parse_space(self.space, where).with_seeds(self.seeds)

    @property
    def minimized(self) -> bool:
        """Whether less is better."""
        return bool(self.settings["monitor"] == "val_loss")


@dataclass(frozen=True)
class Study:
    """A study's folder and its storage, which may lie elsewhere."""

    path: Path
    storage: str
    """A database's URL; empty: a journal in the folder."""
    plan: Plan

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def space(self) -> Space:
        return self.plan.read_space(f"the space of {self.path}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the other processes of this folder from choosing trials."""
        with locked(self.path / "study.lock"):
            yield

    def load(self, *, sampler: Any = None, pruner: Any = None) -> Any:
        """The ``optuna.Study``."""
        found = find_study(self.path, self.storage, sampler=sampler, pruner=pruner)
        assert found is not None  # since its plan was read from it
        return found

    def run_folder(self, number: int) -> Path:
        """Where the trial of that number has its run."""
        return self.path / f"trial-{number:04d}"

    def fields_of(self, trial: Any) -> dict[str, Any]:
        """What the space says of a trial, also of a grid's one that waits; else empty."""
        if "fields" in trial.user_attrs:
            return dict(trial.user_attrs["fields"])
        fixed = trial.system_attrs.get("fixed_params")
        return {} if fixed is None else self.space.suggest(load_optuna().trial.FixedTrial(fixed))

    def go_on(self, *flags: str) -> str:
        """The command that goes on with it."""
        words = ["python", "-m", "xraycomp.search", "--study", self.name, *flags]
        words += ["--storage", self.storage] if self.storage else []
        if self.path.parent != Path("runs"):
            words += ["--", "--runs-dir", str(self.path.parent)]
        return shlex.join(words)

    def change_trials(self, trials: int) -> "Study":
        """The study with another number of trials, for all processes from their next start on."""
        plan = replace(self.plan, trials=trials)
        self.load().set_user_attr(_PLAN, asdict(plan))
        return replace(self, plan=plan)

    def retry_failed(self) -> "Study":
        """The study with what has failed, and nothing else, among the trials that wait."""
        with self.lock():
            study = self.load()
            failed: dict[str, Any] = {}
            for trial in study.get_trials():
                params = trial.system_attrs.get("fixed_params", trial.params)
                if trial.state == load_optuna().trial.TrialState.FAIL:
                    failed[_key(params)] = params
                else:
                    failed.pop(_key(params), None)
            for params in failed.values():
                study.enqueue_trial(params)
        return self.change_trials(self.plan.trials + len(failed)) if failed else self


def open_study(folder: Path, storage: str) -> Study | None:
    """The study in ``folder`` and ``storage``, or None where there is none yet.

    Raises ``UserError`` where the folder holds trials of another one.
    """
    study = find_study(folder, storage)
    plan = study and study.user_attrs.get(_PLAN)
    if not plan:
        return None
    folder.mkdir(parents=True, exist_ok=True)  # a machine may have joined by the database alone
    _own(folder, study.user_attrs[_KEY])
    return Study(folder, storage, Plan(**plan))


def create_study(folder: Path, storage: str, plan: Plan) -> Study:
    """A new study, or the one that another process has made meanwhile.

    Raises ``UserError`` where the folder holds trials of one that is kept elsewhere.
    """
    optuna = load_optuna()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "study.lock"):
        if find_study(folder, storage) is None:
            _check_owner(folder, "")
        try:
            optuna.create_study(
                storage=open_storage(folder, storage),
                study_name=folder.name,
                direction="minimize" if plan.minimized else "maximize",
            )
        except optuna.exceptions.DuplicatedStudyError:
            # Made on another machine, or by a process that was killed before it had the plan.
            until = time.monotonic() + (_SECONDS_TO_MAKE if storage else 0)
            while not (found := open_study(folder, storage)) and time.monotonic() < until:
                time.sleep(1)
            if found:
                return found
        study = Study(folder, storage, plan)
        loaded = study.load()
        key = loaded.user_attrs.get(_KEY, uuid.uuid4().hex)
        loaded.set_user_attr(_KEY, key)
        _own(folder, key)
        if plan.sampler == "grid":
            _enqueue(loaded, study.space.grid())
        # Last: a study that has a plan has its grid.
        loaded.set_user_attr(_PLAN, asdict(plan))
    return study


def _own(folder: Path, key: str) -> None:
    """Note that the trials in ``folder`` are those of the study with that key."""
    _check_owner(folder, key)
    if not (folder / _OWNER).is_file():
        write_text(folder / _OWNER, key)


def _check_owner(folder: Path, key: str) -> None:
    """Raise ``UserError`` where the folder's trials are not those of the study with that key, for
    which it would take them by their numbers."""
    owner = folder / _OWNER
    theirs = owner.read_text(encoding="utf-8") if owner.is_file() else ""
    if (theirs or any(folder.glob("trial-*"))) and theirs != key:
        raise UserError(
            f"{folder} belongs to another study. Go on with that one by its own --storage (none if "
            "it had none), or give another --study."
        )


def _enqueue(study: Any, grid: Iterable[Mapping[str, Any]]) -> None:
    """Let every combination that is in no trial yet wait for a process."""
    trials = study.get_trials(deepcopy=False)
    there = {_key(trial.system_attrs.get("fixed_params", trial.params)) for trial in trials}
    for params in grid:
        if _key(params) not in there:
            study.enqueue_trial(params)


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
