"""The flags of training, read over the settings that some of them name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from xraycomp.console.command import parse_flags
from xraycomp.console.help import Help
from xraycomp.data.source import choose_competition
from xraycomp.model.config import TrainConfig
from xraycomp.model.recipes import RECIPES
from xraycomp.model.run import RunFolder


class _Unchecked(TrainConfig):
    """Flags that are still without the settings that they start from and have to fit."""

    def __post_init__(self) -> None:
        pass


def read_alone(args: Sequence[str], *, prog: str, help: Help) -> TrainConfig:
    """The flags by themselves: good for what names their defaults, and not to train with."""
    return parse_flags(_Unchecked, args, prog=prog, help=help)


def find_defaults(given: TrainConfig, over: Mapping[str, Any] | None = None) -> TrainConfig:
    """What the flags ``given`` start from: a resumed run's own settings, or the recipe of the
    competition, over it the named one, over that the fields of ``over``."""
    if given.resume:
        # How many devices there are is not the run's, but the machine's.
        saved = RunFolder.open(given.resume).config()
        return replace(saved, time_limit=None, devices=None)
    over = over or {}
    named = given.recipe or over.get("recipe", "")
    chosen = given.competition or over.get("competition")
    competition = choose_competition(chosen, given.data, given.data_dir)
    own = competition.recipe if competition else {}
    where = competition.slug if competition else "the recipe"
    return TrainConfig.from_recipe({**own, **RECIPES[named], **over}, where)
