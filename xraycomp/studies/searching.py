"""The search: from what is asked for to a study whose trials are done."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from xraycomp.console.errors import UserError
from xraycomp.job.beginning import find_source
from xraycomp.model.config import TrainConfig
from xraycomp.pages.study import STUDY, STUDY_PAGE
from xraycomp.remote.mounts import find_studies
from xraycomp.remote.session import session_root
from xraycomp.studies.config import SearchConfig
from xraycomp.studies.imported import import_study
from xraycomp.studies.space import load_space
from xraycomp.studies.study import Plan, Sampler, Study, create_study, open_study
from xraycomp.studies.tally import format_best, write_tally
from xraycomp.studies.trials import ONE_MODEL, work

log = logging.getLogger(__name__)


def search(config: SearchConfig, settings: TrainConfig) -> Study:
    """Work on the study that ``config`` names, whose trials share these ``settings``.

    In a Kaggle session it goes on with what attached outputs hold of the study.

    Raises ``UserError`` for everything that the user can mend, ``Stopped`` when interrupted.
    """
    _refuse(settings)
    study = find_asked(config, settings)
    if study:
        settings.check_resumed(TrainConfig.from_json(study.plan.settings), str(study.path))
        _check_same(study, config)
        if config.trials:
            study = study.change_trials(config.trials)
    else:
        folder = settings.runs_dir / config.study
        # Once for all trials, which a wrong path would all let fail.
        settings, _ = find_source(settings)
        study = create_study(folder, config.storage, _plan(config, settings))
    if config.retry_failed:
        study = study.retry_failed()
    work(study, settings, config.dead_after)
    found = write_tally(study)
    log.info("\n%s\n", format_best(found))
    if left := [row for row in found["trials"] if row["state"] == "running"]:
        log.info("Not finished, perhaps since others are at work on them: %d.", len(left))
    log.info("Wrote %s: %s, %s.", study.path, STUDY, STUDY_PAGE)
    return study


def settings_for(config: SearchConfig, competition: str, /, **given: Any) -> TrainConfig:
    """What the trials of a search share, for a script: the recipe of the competition (a slug or the
    path of a TOML file), over it what the space fixes, over that the ``given`` fields.

    Raises ``UserError`` as `load_space` and `TrainConfig.for_competition` do.
    """
    fixed = {**load_space(config.space).fixed, "competition": competition}
    return TrainConfig.for_competition(competition, **{**fixed, **given})


def find_asked(config: SearchConfig, settings: TrainConfig) -> Study | None:
    """The study that ``config`` names, if there is one, with what is to be brought in.

    Raises ``UserError`` where it names none, and as `import_study` does.
    """
    if not config.study:
        raise UserError(
            "Name the study, as in: python -m xraycomp.search --space optimizer --study opt"
        )
    if Path(config.study).name != config.study:
        raise UserError(f"--study is {config.study}; it must be a plain folder name.")
    folder = settings.runs_dir / config.study
    if (folder / "config.json").is_file():
        raise UserError(f"{folder} holds a run and is no study. Give another --study.")
    root = session_root()
    attached = find_studies(root / "input", config.study, skip=settings.data) if root else []
    for other in [*attached, *filter(None, [config.import_study])]:
        import_study(other, folder, config.storage)
    return open_study(folder, config.storage)


def _plan(config: SearchConfig, settings: TrainConfig) -> Plan:
    """What a new study searches and how."""
    space = load_space(config.space)
    sampler: Sampler = config.sampler or ("grid" if space.finite else "tpe")
    if config.seeds and sampler != "grid":
        raise UserError(
            f"--seeds repeats each combination of a grid, but the sampler is {sampler}, which "
            "would look for the best seed. Choose --sampler grid, or no seeds."
        )
    plan = Plan(
        space.text,
        settings.to_json(),
        sampler,
        config.pruner,
        config.trials or 30,
        config.seeds,
        config.sampler_seed,
    )
    if settings.split_plan().all_folds and not {"fold", "folds"} & set(space.searched):
        raise UserError(ONE_MODEL)
    if plan.sampler == "grid":
        whole = len(plan.read_space(space.where).grid())
        plan = replace(plan, trials=min(config.trials or whole, whole))
    return plan


def _check_same(study: Study, config: SearchConfig) -> None:
    """Raise ``UserError`` where the study that exists searches otherwise than is asked."""
    plan = study.plan
    asked = {
        "space": config.space and load_space(config.space).text,
        "seeds": config.seeds,
        "sampler": config.sampler,
        "pruner": config.pruner if config.pruner != "none" else "",
        "sampler_seed": config.sampler_seed,
    }
    for name, value in asked.items():
        if value and value != getattr(plan, name):
            raise UserError(
                f"The study {study.path} was started with another --{name.replace('_', '-')}. "
                "Leave that out to go on with it, or give another --study."
            )


def _refuse(given: TrainConfig) -> None:
    for name in ("resume", "overwrite", "devices", "name"):
        if getattr(given, name):  # none of which is on by itself
            raise UserError(
                f"--{name} is not for a search: each trial is a run of its own on one device. "
                "Leave it out."
            )
