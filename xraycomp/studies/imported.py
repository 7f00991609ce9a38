"""Trials that were done in another copy of a study, as in a kernel without network."""

import logging
import shutil
from pathlib import Path
from typing import Any

from xraycomp.console.errors import UserError
from xraycomp.data.files import atomic_folder
from xraycomp.model.config import TrainConfig
from xraycomp.studies.claims import try_lock
from xraycomp.studies.storage import load_optuna, open_storage
from xraycomp.studies.study import Study, open_study

log = logging.getLogger(__name__)

_OF_ONE_PLACE = ("study.lock", "locks", "submissions")
"""What of a study is only for processes that see this very folder."""


def import_study(other: Path, folder: Path, storage: str) -> None:
    """Bring what was done in the study's copy at ``other`` into the one in ``folder``.

    Where there is none yet, the copy becomes it, with its unfinished trials and their checkpoints.
    Else its finished trials join; those that are there already, or of a grid the same settings,
    do not come twice.

    Raises ``UserError`` where ``other`` is no study with a journal, or one of something else.
    """
    source = open_study(other, "")
    if source is None:
        raise UserError(f"{other} is not a study's folder (it has no journal.log). Check the path.")
    if other.resolve().name != folder.name:
        raise UserError(
            f"{other} is the study {other.resolve().name} and not {folder.name}. Import it with "
            f"--study {other.resolve().name}."
        )
    study = open_study(folder, storage)
    if study is None and not storage:
        with atomic_folder(folder) as temporary:
            _copy(other, temporary)
        log.info("Copied the study from %s.", other)
        return
    if study is None:
        raise UserError(
            f"There is no study {folder.name} in {storage} yet that could take in {other}. Start "
            "it first, without --import-study."
        )
    if study.plan.space != source.plan.space:
        raise UserError(f"{other} searches another space than {folder}. Import it elsewhere.")
    TrainConfig.from_json(source.plan.settings).check_resumed(
        TrainConfig.from_json(study.plan.settings), str(folder)
    )
    done = [trial for trial in source.load().get_trials() if trial.state.is_finished()]
    came = sum(_bring(study, trial, other) for trial in done)
    log.info("Took in %d of %d finished trials of %s.", came, len(done), other)


def _bring(study: Study, trial: Any, other: Path) -> bool:
    """Take in one trial; False if it is there already."""
    optuna = load_optuna()
    run = other / f"trial-{trial.number:04d}"
    waiting, running = optuna.trial.TrialState.WAITING, optuna.trial.TrialState.RUNNING
    with study.lock():
        joined = study.load()
        there = joined.get_trials()
        same = [one for one in there if one.user_attrs.get("key") == trial.user_attrs["key"]]
        if study.plan.sampler == "grid" and not same:
            fields = trial.user_attrs["fields"]
            same = [one for one in there if study.fields_of(one) == fields]
        finished = [one for one in same if one.state.is_finished()]
        if finished:
            # It may have been told by a process that was killed before it had copied the run.
            number = finished[0].number
            told = finished[0].user_attrs["key"] == trial.user_attrs["key"]
            if not told or study.run_folder(number).is_dir() or not run.is_dir():
                return False
        elif not same:
            joined.add_trial(trial)
            number = len(joined.get_trials()) - 1
        else:
            number = same[0].number
            lock = try_lock(study, number)
            if lock is None:
                return False  # a process is at work on it here
            with lock:
                _replace(study.run_folder(number), run)
                if same[0].state == waiting:
                    storage = open_storage(study.path, study.storage)
                    storage.set_trial_state_values(same[0]._trial_id, running)
                _fill(study, optuna.trial.Trial(joined, same[0]._trial_id), trial)
            return True
    _replace(study.run_folder(number), run)
    return True


def _replace(here: Path, run: Path) -> None:
    """Have the other copy's ``run``, if there is one, in place of what is ``here``."""
    if run.is_dir():
        shutil.rmtree(here, ignore_errors=True)
        with atomic_folder(here) as temporary:
            _copy(run, temporary)


def _fill(study: Study, here: Any, done: Any) -> None:
    """Give a trial that is not finished here what came of it elsewhere."""
    study.space.suggest(here)
    for step, value in done.intermediate_values.items():
        here.report(value, step)
    for name, value in done.user_attrs.items():
        here.set_user_attr(name, value)
    here.study.tell(here.number, done.value, state=done.state)


def _copy(source: Path, target: Path) -> None:
    """Copy files without their modes, since a kernel's input is read-only."""
    for path in source.rglob("*"):
        place = path.relative_to(source)
        if path.is_file() and place.parts[0] not in _OF_ONE_PLACE:
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / place)
