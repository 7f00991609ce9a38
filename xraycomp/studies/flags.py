"""The flags of training that the trials of a study share."""

from collections.abc import Sequence
from dataclasses import replace

from xraycomp.console.command import parse_flags
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.job.flags import find_defaults, read_alone
from xraycomp.model.config import TrainConfig
from xraycomp.studies.config import SearchConfig
from xraycomp.studies.searching import find_asked
from xraycomp.studies.space import Space, load_space


def read_settings(
    config: SearchConfig, flags: Sequence[str], *, prog: str, help: Help
) -> TrainConfig:
    """The flags of training over what the study has, or over recipes and the space's own.

    Raises ``UserError`` where there is neither a study nor a space, and for flags of what the
    space searches.
    """
    given = read_alone(flags, prog=prog, help=help)
    if study := find_asked(config, given):
        saved = TrainConfig.from_json(study.plan.settings)
        base = replace(saved, time_limit=None, devices=None)
        settings = parse_flags(TrainConfig, flags, prog=prog, help=help, default=base)
        _check_searched(study.space, settings, base, config.seeds)
        return settings
    if not config.space:
        raise UserError(
            f"There is no study {given.runs_dir / config.study} yet. Say what to search with "
            "--space, or check --study, --storage and, after --, --runs-dir."
        )
    space = load_space(config.space).with_seeds(config.seeds)
    base = find_defaults(given, space.fixed)
    settings = parse_flags(TrainConfig, flags, prog=prog, help=help, default=base)
    _check_searched(space, settings, base, config.seeds)
    return settings


def _check_searched(space: Space, settings: TrainConfig, base: TrainConfig, seeds: int) -> None:
    """Raise ``UserError`` where flags have changed from ``base`` what the space searches."""
    for name in space.searched:
        if getattr(settings, name) == getattr(base, name):
            continue
        if name == "seed" and seeds:
            raise UserError("--seed is what --seeds says. Leave one of them out.")
        raise UserError(
            f"--{name.replace('_', '-')} is what {space.where} searches. Leave it out, or take it "
            "out of the space."
        )
