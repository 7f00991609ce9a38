"""A study that many processes share: its storage, and which of them works on which trial."""

import contextlib
import fcntl
import functools
import json
import shlex
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from xraycomp.console.errors import UserError
from xraycomp.data.files import write_text
from xraycomp.job.space import Space, parse_space

Sampler = Literal["", "grid", "random", "tpe"]
Pruner = Literal["none", "asha", "hyperband"]

MAX_DEATHS = 3
"""So many processes may die in one epoch of a trial before it is given up."""
_PLAN, _WORKER = "plan", "worker"
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
    """With how many seeds each combination is trained; 0: as the space has it."""
    sampler_seed: int = 0

    def read_space(self, where: str) -> Space:
        """The space, with the seeds."""
        space = parse_space(self.space, where)
        if not self.seeds:
            return space
        # First, so that a grid has every combination once before it has one twice.
        return replace(space, fields={"seed": tuple(range(self.seeds)), **space.fields})

    @property
    def minimized(self) -> bool:
        """Whether less is better."""
        return bool(self.settings["monitor"] == "val_loss")


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
        self.trial.set_user_attr(_WORKER, worker)

    def let_go(self) -> None:
        """Leave the trial to whoever goes on with it."""
        self.lock.close()


@dataclass(frozen=True)
class Study:
    """A study's folder and its storage, which may lie elsewhere."""

    folder: Path
    storage: str
    """A database's URL; empty: a journal in the folder."""
    plan: Plan

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def space(self) -> Space:
        return self.plan.read_space(f"the space of {self.folder}")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the other processes of this folder from choosing trials."""
        with _locked(self.folder / "study.lock"):
            yield

    def load(self, *, sampler: Any = None, pruner: Any = None) -> Any:
        """The ``optuna.Study``."""
        found = _load(self.folder, self.storage, sampler=sampler, pruner=pruner)
        assert found is not None  # since its plan was read from it
        return found

    def claim(self, dead_after: float) -> Claim | None:
        """A trial to work on: one whose process has died or has let go of it, or else a new one;
        None where there is none.

        ``dead_after`` is how many minutes a trial of another machine may be silent.
        """
        optuna = load_optuna()
        with self.lock():
            study = self._sampling()
            for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
                if claim := self._take_over(study, trial, dead_after):
                    return claim
            trials = study.get_trials(deepcopy=False)
            waiting = sum(trial.state == optuna.trial.TrialState.WAITING for trial in trials)
            whole = len(trials) - waiting >= self.plan.trials
            if whole or (self.plan.sampler == "grid" and not waiting):
                return None
            trial = study.ask()
            lock = _try_lock(self._lock_path(trial.number))
            assert lock is not None  # nobody else takes trials while the study is locked
            return self._claimed(trial, lock, {})

    def _take_over(self, study: Any, trial: Any, dead_after: float) -> Claim | None:
        """The running ``trial``, if no process works on it."""
        lock = _try_lock(self._lock_path(trial.number))
        if lock is None:
            return None
        trial = study.get_trials()[trial.number]  # as it is now that nobody else has it
        if trial.state != load_optuna().trial.TrialState.RUNNING:
            lock.close()
            return None
        worker = trial.user_attrs.get(_WORKER, {})
        here = trial.user_attrs.get("place") in (None, self._place())
        silent = time.time() - worker.get("at", trial.datetime_start.timestamp())
        if not here and silent < 60 * dead_after:
            lock.close()
            return None
        return self._claimed(load_optuna().trial.Trial(study, trial._trial_id), lock, worker)

    def _claimed(self, trial: Any, lock: IO[bytes], before: Mapping[str, Any]) -> Claim:
        fields = self.space.suggest(trial)
        claim = Claim(
            trial,
            fields,
            self.folder / f"trial-{trial.number:04d}",
            lock,
            before.get("seconds", 0.0),
            before.get("deaths", -1) + 1,
        )
        trial.set_user_attr("fields", fields)
        trial.set_user_attr("place", self._place())
        if "key" not in trial.user_attrs:
            trial.set_user_attr("key", uuid.uuid4().hex)
        claim.beat()
        return claim

    def _lock_path(self, number: int) -> Path:
        return self.folder / "locks" / f"trial-{number:04d}"

    def _place(self) -> str:
        """What tells this folder from that of another machine, where the study is in a database."""
        path = self.folder / "place"
        if not path.is_file():
            write_text(path, uuid.uuid4().hex)
        return path.read_text(encoding="utf-8")

    def _sampling(self) -> Any:
        """The study with a sampler whose draws are those of its next trial, whoever asks."""
        optuna, plan = load_optuna(), self.plan
        number = len(self.load().get_trials(deepcopy=False))
        seed = plan.sampler_seed * 1_000_003 + number
        sampler = optuna.samplers.RandomSampler(seed=seed)
        if plan.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=True
            )
        epochs = self.plan.settings["epochs"]
        pruner = {
            "none": optuna.pruners.NopPruner,
            "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(
                min_resource=max(1, epochs // 9), reduction_factor=3
            ),
            "hyperband": lambda: optuna.pruners.HyperbandPruner(
                min_resource=1, max_resource=epochs, reduction_factor=3
            ),
        }[plan.pruner]()
        return self.load(sampler=sampler, pruner=pruner)

    def go_on(self, *flags: str) -> str:
        """The command that goes on with it."""
        words = ["python", "-m", "xraycomp.search", "--study", self.name, *flags]
        words += ["--storage", self.storage] if self.storage else []
        if self.folder.parent != Path("runs"):
            words += ["--", "--runs-dir", str(self.folder.parent)]
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
    """The study in ``folder`` and ``storage``, or None where there is none yet."""
    if not storage and not (folder / "journal.log").is_file():
        return None
    study = _load(folder, storage)
    plan = study and study.user_attrs.get(_PLAN)
    return Study(folder, storage, Plan(**plan)) if plan else None


def create_study(folder: Path, storage: str, plan: Plan) -> Study:
    """A new study, or the one that another process has made meanwhile."""
    optuna = load_optuna()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "study.lock"):
        try:
            optuna.create_study(
                storage=_storage(folder, storage),
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
        if plan.sampler == "grid":
            _enqueue(study.load(), study.space.grid())
        # Last: a study that has a plan has its grid.
        study.load().set_user_attr(_PLAN, asdict(plan))
    return study


def _enqueue(study: Any, grid: Iterable[Mapping[str, Any]]) -> None:
    """Let every combination that is in no trial yet wait for a process."""
    trials = study.get_trials(deepcopy=False)
    there = {_key(trial.system_attrs.get("fixed_params", trial.params)) for trial in trials}
    for params in grid:
        if _key(params) not in there:
            study.enqueue_trial(params)


def _load(folder: Path, storage: str, *, sampler: Any = None, pruner: Any = None) -> Any:
    optuna = load_optuna()
    try:
        return optuna.load_study(
            storage=_storage(folder, storage),
            study_name=folder.name,
            sampler=sampler,
            pruner=pruner,
        )
    except KeyError:
        return None


@functools.cache
def _storage(folder: Path, url: str) -> Any:
    optuna = load_optuna()
    if not url:
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
        return optuna.storages.JournalStorage(backend)
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # of SQLAlchemy, its drivers, or the URL's scheme
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"The storage {url} cannot be opened: {reason}. Check --storage.") from None


def load_optuna() -> Any:
    """Optuna, silent.

    Raises ``UserError`` where it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "Searching needs Optuna, which is not installed. Install it with: pip install -e "
            "'.[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file gives it free, as does the death of the process


def _try_lock(path: Path) -> IO[bytes] | None:
    """The file, locked until it is closed or the process ends; None where another holds it."""
    path.parent.mkdir(exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
