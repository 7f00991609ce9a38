"""Which process works on which trial of a study; one that dies is made up for by another."""

import contextlib
import fcntl
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from xraycomp.data.files import write_text
from xraycomp.studies.storage import load_optuna
from xraycomp.studies.study import Study

MAX_DEATHS = 3
"""So many processes may die in one epoch of a trial before it is given up."""
WORKER = "worker"
"""The attribute of a trial that says when its process last was alive, and how long it took."""


@dataclass
class Claim:
    """A trial that this process works on, until it is told or let go."""

    trial: Any
    """``optuna.Trial``."""
    fields: Mapping[str, Any]
    """What the space says of it: fields of the training configuration."""
    folder: Path
    """Its run."""
    lock: IO[bytes]
    seconds: float
    """How long processes have worked on it before this one."""
    deaths: int
    """How many of them have died since the trial's last epoch."""
    since: float = field(default_factory=time.monotonic)

    def beat(self, deaths: int | None = None) -> None:
        """Say that this process is alive and how long it has worked."""
        self.deaths = self.deaths if deaths is None else deaths
        spent = self.seconds + time.monotonic() - self.since
        worker = {"at": time.time(), "seconds": round(spent, 1), "deaths": self.deaths}
        self.trial.set_user_attr(WORKER, worker)

    def rest(self) -> None:
        """Say that this process is not dead, but will let go of the trial."""
        with contextlib.suppress(load_optuna().exceptions.UpdateFinishedTrialError):
            self.beat(deaths=-1)

    def let_go(self) -> None:
        """Leave the trial to whoever goes on with it."""
        self.lock.close()


def claim_trial(study: Study, dead_after: float) -> Claim | None:
    """A trial to work on: one whose process has died or has let go of it, or else a new one;
    None where there is none.

    ``dead_after`` is how many minutes a trial of another machine may be silent.
    """
    optuna = load_optuna()
    with study.lock():
        loaded = _sampling(study)
        for trial in loaded.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            if claim := _take_over(study, loaded, trial, dead_after):
                return claim
        trials = loaded.get_trials(deepcopy=False)
        waiting = sum(trial.state == optuna.trial.TrialState.WAITING for trial in trials)
        whole = len(trials) - waiting >= study.plan.trials
        if whole or (study.plan.sampler == "grid" and not waiting):
            return None
        trial = loaded.ask()
        lock = try_lock(study, trial.number)
        assert lock is not None  # nobody else takes trials while the study is locked
        return _claimed(study, trial, lock, {})


def _take_over(study: Study, loaded: Any, trial: Any, dead_after: float) -> Claim | None:
    """The running ``trial``, if no process works on it."""
    lock = try_lock(study, trial.number)
    if lock is None:
        return None
    trial = loaded.get_trials()[trial.number]  # as it is now that nobody else has it
    if trial.state != load_optuna().trial.TrialState.RUNNING:
        lock.close()
        return None
    worker = trial.user_attrs.get(WORKER, {})
    # A journal is for one folder; in a database a trial may just have been chosen elsewhere.
    here = not study.storage or trial.user_attrs.get("place") == _place(study)
    silent = time.time() - worker.get("at", trial.datetime_start.timestamp())
    if not here and silent < 60 * dead_after:
        lock.close()
        return None
    trial = load_optuna().trial.Trial(loaded, trial._trial_id)
    return _claimed(study, trial, lock, worker)


def _claimed(study: Study, trial: Any, lock: IO[bytes], before: Mapping[str, Any]) -> Claim:
    fields = study.space.suggest(trial)
    claim = Claim(
        trial,
        fields,
        study.run_folder(trial.number),
        lock,
        before.get("seconds", 0.0),
        before.get("deaths", -1) + 1,
    )
    trial.set_user_attr("fields", fields)
    trial.set_user_attr("place", _place(study))
    if "key" not in trial.user_attrs:
        trial.set_user_attr("key", uuid.uuid4().hex)
    claim.beat()
    return claim


def try_lock(study: Study, number: int) -> IO[bytes] | None:
    """Keep a trial from other processes of this folder until what is returned is closed; None
    where one of them works on it."""
    path = study.path / "locks" / f"trial-{number:04d}"
    path.parent.mkdir(exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _place(study: Study) -> str:
    """What tells this folder from that of another machine, where the study is in a database."""
    path = study.path / "place"
    if not path.is_file():
        write_text(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")


def _sampling(study: Study) -> Any:
    """The study with a sampler whose draws are those of its next trial, whoever asks."""
    optuna, plan = load_optuna(), study.plan
    number = len(study.load().get_trials(deepcopy=False))
    seed = plan.sampler_seed * 1_000_003 + number
    sampler = optuna.samplers.RandomSampler(seed=seed)
    if plan.sampler == "tpe":
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=True
        )
    epochs = study.plan.settings["epochs"]
    pruner = {
        "none": optuna.pruners.NopPruner,
        "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(
            min_resource=max(1, epochs // 9), reduction_factor=3
        ),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=epochs, reduction_factor=3
        ),
    }[plan.pruner]()
    return study.load(sampler=sampler, pruner=pruner)
