"""What is searched and how, as a user or a kernel's script asks for it."""

from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.errors import UserError
from xraycomp.studies.study import Pruner, Sampler


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
    """First bring in what was done in another copy of the study, the folder at this path. In
    a Kaggle session those in attached outputs come by themselves."""
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
        if not self.dead_after >= 0:
            raise UserError(f"--dead-after is {self.dead_after:g}; it must be 0 or more.")
