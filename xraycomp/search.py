"""python -m xraycomp.search: which settings of training are best, tried by many processes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import HELP_FLAGS, Help
from xraycomp.job.flags import find_defaults, read_alone
from xraycomp.model.config import TrainConfig
from xraycomp.pages.study import STUDY, STUDY_PAGE
from xraycomp.studies.imported import import_study
from xraycomp.studies.searching import work
from xraycomp.studies.space import load_space
from xraycomp.studies.study import Plan, Pruner, Sampler, Study, create_study, open_study
from xraycomp.studies.tally import format_best, write_tally

log = logging.getLogger("xraycomp.search")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.search"
HELP = Help(
    examples=(
        "--space optimizer --study opt --seeds 3 -- --data chest-xray-4.zip",
        "--study opt   # goes on with it, in one more process too",
        "--space fast --study broad --pruner asha --trials 60 -- --data nih.zip",
        "--space my.toml --study my --storage sqlite:///my.db -- --device cuda:1",
    ),
    first="study space trials seeds sampler pruner storage retry_failed",
)


@dataclass(frozen=True)
class SearchConfig:
    """Try settings of training, each trial an ordinary run in the study's folder.

    Flags of xraycomp.train, which all trials share, follow after --. Start the same command as
    often as there are processes to work on it: each trial is done by one of them. One that is
    stopped or killed is made up for by the others, from the last checkpoint.
    """

    study: str = ""
    """Name of the study; its folder lies among the runs. One that exists goes on."""
    space: str = ""
    """What is tried: optimizer, batch-size, image-size, channels, architecture, fast, or the path
    of a TOML file."""
    trials: int | None = None
    """How many trials the study is to have, of all processes together. Default: the whole grid, or
    30."""
    seeds: int = 0
    """Train each combination of a grid with this many seeds, 0 and up, in place of those of the
    space; 0: as the space has it."""
    sampler: Sampler = ""
    """How settings are chosen: grid, random or tpe. Default: grid where the space has values only,
    tpe where it has ranges."""
    pruner: Pruner = "none"
    """What ends trials early that fall behind: none, asha (successive halving) or hyperband."""
    storage: str = ""
    """URL of a database (sqlite:///file.db, postgresql://...) that machines share. Default: a
    journal in the study's folder, for all processes that see it."""
    import_study: Path | None = None
    """First bring in what was done in another copy of the study, the folder at this path, as
    where a kernel has its last version's output as an input."""
    retry_failed: bool = False
    """Try again what has failed."""
    dead_after: float = 60.0
    """Minutes without an epoch after which a trial on a machine with another folder is taken for
    dead; in one folder it is known."""
    sampler_seed: int = 0
    """Seed of random and tpe."""

    def __post_init__(self) -> None:
        """Raise ``UserError`` for values outside their range."""
        for name in ("trials", "seeds", "sampler_seed"):
            value = getattr(self, name)
            least = 1 if name == "trials" else 0
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is {value}; it must be at least {least}.")


def search(config: SearchConfig, settings: TrainConfig) -> Study:
    """Work on the study that ``config`` names, whose trials share these ``settings``.

    Raises ``UserError`` for everything that the user can mend, ``Stopped`` when interrupted.
    """
    _refuse(settings)
    folder = settings.runs_dir / config.study
    study = _find(config, folder)
    if study:
        settings.check_resumed(TrainConfig.from_json(study.plan.settings), str(folder))
        _check_same(study, config)
        if config.trials:
            study = study.change_trials(config.trials)
    else:
        study = create_study(folder, config.storage, _plan(config, settings))
    if config.retry_failed:
        study = study.retry_failed()
    work(study, settings, config.dead_after)
    found = write_tally(study)
    log.info("\n%s\n", format_best(found))
    if left := [row for row in found["trials"] if row["state"] == "running"]:
        log.info("%d trials are not finished; others may be at work on them.", len(left))
    log.info("Wrote %s: %s, %s.", folder, STUDY, STUDY_PAGE)
    return study


def _find(config: SearchConfig, folder: Path) -> Study | None:
    """The study, if there is one, with what is to be brought in."""
    if not config.study or Path(config.study).name != config.study:
        raise UserError(f"Name the study, as in: {PROG} {HELP.examples[0]}")
    if config.import_study:
        import_study(config.import_study, folder, config.storage)
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
    if plan.sampler == "grid":
        plan = replace(plan, trials=config.trials or len(plan.read_space(space.where).grid()))
    return plan


def _read_settings(config: SearchConfig, flags: Sequence[str]) -> TrainConfig:
    """The flags of training over what the study has, or over recipes and the space's own."""
    given = read_alone(flags, prog=PROG, help=HELP)
    folder = given.runs_dir / config.study
    if study := _find(config, folder):
        saved = TrainConfig.from_json(study.plan.settings)
        base = replace(saved, time_limit=None, devices=None)
        return parse_flags(TrainConfig, flags, prog=PROG, help=HELP, default=base)
    if not config.space:
        raise UserError(
            f"There is no study {folder} yet. Say what to search with --space, or check --study "
            "and, after --, --runs-dir."
        )
    space = load_space(config.space).with_seeds(config.seeds)
    base = find_defaults(given, space.fixed)
    settings = parse_flags(TrainConfig, flags, prog=PROG, help=HELP, default=base)
    for name in space.searched:
        if getattr(settings, name) == getattr(base, name):
            continue
        if name == "seed" and config.seeds:
            raise UserError("--seed is what --seeds says. Leave one of them out.")
        raise UserError(
            f"--{name.replace('_', '-')} is what {space.where} searches. Leave it out, or take it "
            "out of the space."
        )
    return settings


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
                f"The study {study.folder} was started with another --{name.replace('_', '-')}. "
                "Leave that out to go on with it, or give another --study."
            )


def _refuse(given: TrainConfig) -> None:
    for name in ("name", "resume", "overwrite", "devices"):
        if getattr(given, name):  # none of which is on by itself
            raise UserError(
                f"--{name} is not for a search: each trial is a run of its own on one device. "
                "Leave it out."
            )


def main(args: Sequence[str]) -> None:
    """Read the flags of the search and, after --, those of training, and work on the study."""
    if any(arg in HELP_FLAGS for arg in args):
        args = [arg for arg in args if arg in HELP_FLAGS]
    own = list(args[: args.index("--")]) if "--" in args else list(args)
    config = parse_flags(SearchConfig, own, prog=PROG, help=HELP)
    settings = _read_settings(config, args[len(own) + 1 :])
    search(replace(config, import_study=None), settings)  # it has been brought in


if __name__ == "__main__":
    run_command(main)
