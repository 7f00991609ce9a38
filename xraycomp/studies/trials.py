"""Work on a study: one trial after the other, each an ordinary run."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.signals import Terminated
from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import Deadline, deadline_in
from xraycomp.model.engine import Watch
from xraycomp.model.run import RunFolder
from xraycomp.studies.claims import MAX_DEATHS, Claim, claim_trial
from xraycomp.studies.storage import load_optuna
from xraycomp.studies.study import Study
from xraycomp.studies.tally import best_value, write_tally

log = logging.getLogger(__name__)

ONE_MODEL = (
    "A trial trains one model, and --folds without --fold several. Name a --fold, or search over "
    "fold as over a seed."
)


def work(study: Study, settings: TrainConfig, dead_after: float) -> None:
    """Do trials of ``study`` until it has as many as it is to have, or the time is up.

    ``settings`` are those that the trials share; their time limit is for all of this. Several
    processes may do this at once, on several machines too. ``dead_after`` is as in `claim_trial`.

    Raises ``Stopped`` when interrupted, and ``UserError`` where the first trials all fail for one
    reason.
    """
    deadline = deadline_in(settings.time_limit)
    finished_elsewhere = load_optuna().exceptions.UpdateFinishedTrialError
    while claim := claim_trial(study, dead_after):
        try:
            if claim.deaths >= MAX_DEATHS:
                _fail(study, claim, f"{MAX_DEATHS} processes died in it, short of memory perhaps.")
            elif not _try(study, settings, claim, deadline):
                return
        except finished_elsewhere:
            # This machine was silent for so long that its trial was taken over.
            _remove_weights(claim, keep_best=RunFolder(claim.folder).finished)
            log.info("Trial %d: another process has finished it.", claim.trial.number)
        finally:
            claim.let_go()
            write_tally(study)
        _check_failures(study)


def _try(study: Study, settings: TrainConfig, claim: Claim, deadline: Deadline) -> bool:
    """Train the run of a trial and tell how it went; False if the time is up before."""
    import optuna

    number = claim.trial.number
    shown = ", ".join(f"{name} {value}" for name, value in claim.fields.items())
    log.info("Trial %d of %d: %s.", number, study.plan.trials, shown)
    try:
        run = _train(study, settings, claim, deadline)
        if run is None:
            claim.rest()
            log.info("Time limit reached in trial %d. Go on with: %s", number, study.go_on())
            return False
        value = best_value(run.epochs(), settings.monitor)
        _tell(study, claim, "COMPLETE", value)
        log.info("Trial %d: %s %.4f.", number, settings.monitor, value)
    except optuna.TrialPruned:
        _tell(study, claim, "PRUNED")
        log.info("Trial %d: pruned, since others were better by then.", number)
    except Stopped as stopped:
        claim.rest()
        sentence = f"Stopped in trial {number}. Go on with: {study.go_on()}"
        raise Stopped(sentence, stopped.signal_number) from None
    except (KeyboardInterrupt, Terminated):
        claim.rest()
        raise
    except UserError as error:
        _fail(study, claim, str(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _fail(study, claim, "It ran out of memory; smaller batches or images may fit.")
    return True


def _train(
    study: Study, settings: TrainConfig, claim: Claim, deadline: Deadline
) -> RunFolder | None:
    """The trial's run, trained to its end, from where it is; None if the time is up before."""
    run = RunFolder(claim.folder)
    if run.finished:
        return run  # by a process that died before it could tell
    minutes = (deadline.at - time.monotonic()) / 60
    if minutes <= 0:
        return None
    config = replace(
        settings,
        **claim.fields,
        name=claim.folder.name,
        runs_dir=study.path,
        submissions_dir=study.path / "submissions",
        resume=claim.folder if (claim.folder / "config.json").is_file() else None,
        devices=1,
        time_limit=None if math.isinf(minutes) else minutes,
    )
    if config.split_plan().all_folds:
        raise UserError(ONE_MODEL)
    train(config, _watch(claim, config), closer=False)
    return run if run.finished else None


def _watch(claim: Claim, config: TrainConfig) -> Watch:
    """Tell the study of the best epoch so far after each, and end trials that it thinks little of,
    unless they have trained to the end anyway."""
    import optuna

    run, epochs = RunFolder(claim.folder), sum(it.epochs for it in config.training_stages())

    def watch(row: Mapping[str, Any]) -> None:
        claim.beat(deaths=0)
        claim.trial.report(best_value(run.epochs(), config.monitor), row["epoch"])
        if row["epoch"] < epochs and claim.trial.should_prune():
            raise optuna.TrialPruned

    return watch


def _tell(study: Study, claim: Claim, state: str, value: float | None = None) -> None:
    """Finish the trial."""
    import optuna

    claim.beat()
    study.load().tell(claim.trial.number, value, state=optuna.trial.TrialState[state])
    _remove_weights(claim, keep_best=state == "COMPLETE")


def _remove_weights(claim: Claim, *, keep_best: bool) -> None:
    """Remove what only going on with the trial needs, large as it is."""
    run = RunFolder(claim.folder)
    run.checkpoint.unlink(missing_ok=True)
    if not keep_best:
        run.best.unlink(missing_ok=True)


def _fail(study: Study, claim: Claim, reason: str) -> None:
    claim.trial.set_user_attr("reason", reason)
    _tell(study, claim, "FAIL")
    log.info("Trial %d failed: %s", claim.trial.number, reason)


def _out_of_memory(error: Exception) -> bool:
    """Whether it is for want of memory, which on a CPU is a plain RuntimeError of torch's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("DefaultCPUAllocator", "out of memory"))


def _check_failures(study: Study) -> None:
    """Raise ``UserError`` where all trials have failed, and three or more for one reason."""
    import optuna

    done = [it for it in study.load().get_trials(deepcopy=False) if it.state.is_finished()]
    if len(done) < 3 or any(it.state != optuna.trial.TrialState.FAIL for it in done):
        return
    reasons = [it.user_attrs["reason"].replace(f"trial-{it.number:04d}", "") for it in done]
    if len(set(reasons)) == 1:
        raise UserError(
            f"The first {len(done)} trials failed for one reason: {done[0].user_attrs['reason']} "
            "Mend it (flags of training follow after --) and try them again with: "
            f"{study.go_on('--retry-failed')}"
        )
