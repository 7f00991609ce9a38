"""Members of an ensemble, trained one after another within one time limit, and then combined."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.data.source import DEFAULT_DRAWN, choose_competition
from xraycomp.ensembles.ensembling import Ensemble, ensemble
from xraycomp.ensembles.member_tables import read_runs
from xraycomp.job.training import train
from xraycomp.judging.combining import Method
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import share_out
from xraycomp.model.run import RunFolder
from xraycomp.model.state import check_trainable
from xraycomp.model.zoo import build_model

log = logging.getLogger(__name__)


def train_ensemble(name: str, *configs: TrainConfig, method: Method = "mean") -> Ensemble:
    """Train one member a configuration and leave their ensemble in ``ensembles/<name>``, beside the
    folder of the runs.

    Members that are finished are not trained again, those that have begun go on, and the time limit
    of the first is shared out among those to do, so that each gets its turn.

    Raises ``UserError`` as `train` and `read_runs` do, and for members without names of their own.
    """
    names = [config.name or "" for config in configs]
    if len(configs) < 2 or "" in names or len(set(names)) < len(names):
        raise UserError("Give the ensemble two members at least, each with a name of its own.")
    folder = configs[0].runs_dir.with_name("ensembles") / name
    runs = train_members(configs)
    return ensemble(read_runs([run.path for run in runs]), folder, method=method, overwrite=True)


def train_members(configs: Sequence[TrainConfig]) -> list[RunFolder]:
    """The runs of these configurations, each with a name, trained as `train_ensemble` says."""
    begun = [_begun(config) for config in configs]
    for config, run in zip(configs, begun, strict=True):
        if run is None:
            _check(config)  # what is wrong with the last shall not show after hours
    to_do = sum(run is None or not run.finished for run in begun)
    minutes = share_out(configs[0].time_limit, to_do)
    runs = []
    for number, (config, run) in enumerate(zip(configs, begun, strict=True), 1):
        log.info("Member %d of %d: %s.", number, len(configs), config.name)
        if run is not None and run.finished:
            config.check_resumed(run.config(), str(run.path))
            log.info("It is finished already.")
        else:
            resume = run.path if run else None
            config = replace(config, resume=resume, time_limit=next(minutes))
            run = train(config, closer=False)
        runs.append(run)
    if cut_short := [run.name for run in runs if not run.finished]:
        log.info("Not trained to the end, and combined all the same: %s.", ", ".join(cut_short))
    return runs


def _check(config: TrainConfig) -> None:
    """Raise ``UserError`` where the network cannot be built, or not trained as it says."""
    named = choose_competition(config.competition, config.data, config.data_dir)
    # A folder of its own has one class an image, as the drawn competition has.
    check_trainable(build_model(config, named or load_competition(DEFAULT_DRAWN)), config)


def _begun(config: TrainConfig) -> RunFolder | None:
    """The run that a configuration has begun, if there is one and it is not to be replaced."""
    run = RunFolder(config.resume or config.runs_dir / (config.name or ""))
    return run if not config.overwrite and (run.path / "config.json").is_file() else None
