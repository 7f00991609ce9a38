"""python -m xraycomp.search: which settings of training are best, tried by many processes."""

from collections.abc import Sequence
from dataclasses import fields, replace

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import HELP_FLAGS, Help
from xraycomp.model.config import TrainConfig
from xraycomp.studies.config import SearchConfig
from xraycomp.studies.flags import read_settings
from xraycomp.studies.searching import search

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


def main(args: Sequence[str]) -> None:
    """Read the flags of the search and, after --, those of training, and work on the study."""
    if any(arg in HELP_FLAGS for arg in args):
        args = [arg for arg in args if arg in HELP_FLAGS]
    own = list(args[: args.index("--")]) if "--" in args else list(args)
    of_training = {item.name for item in fields(TrainConfig)}
    of_training -= {item.name for item in fields(SearchConfig)}
    for arg in own:
        name = arg.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        if arg.startswith("--") and name in of_training:
            raise UserError(f"{arg} is a flag of training. Those follow after --: -- {arg} ...")
    config = parse_flags(SearchConfig, own, prog=PROG, help=HELP)
    settings = read_settings(config, args[len(own) + 1 :], prog=PROG, help=HELP)
    search(replace(config, import_study=None), settings)  # it has been brought in


if __name__ == "__main__":
    run_command(main)
