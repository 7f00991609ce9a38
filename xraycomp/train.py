"""python -m xraycomp.train: from a competition's files to a judged run and a submission."""

from collections.abc import Sequence
from dataclasses import replace

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.help import HELP_FLAGS, Help
from xraycomp.data.source import choose_competition
from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import from_main
from xraycomp.model.processes import joined
from xraycomp.model.recipes import RECIPES
from xraycomp.model.run import RunFolder

PROG = "python -m xraycomp.train"
HELP = Help(
    examples=(
        "--data chest-xray-4.zip",
        "--competition nih-chest-xrays --data nih.zip --split-by official",
        "--competition chest-xray-4 --help   # with the defaults of its recipe",
    ),
    first=(
        "competition data name resume overwrite recipe arch weights image_size epochs batch_size "
        "lr loss stages split_by seed devices time_limit"
    ),
    groups={
        "Network": "channels pool head",
        "Feature codes": "codes_epochs codes_passes",
        "Optimization": "optimizer momentum weight_decay schedule warmup_epochs accumulate "
        "clip_grad ema_decay swa_epochs",
        "Loss": "gamma alpha gamma_neg gamma_pos margin max_weight label_smoothing",
        "Rare classes": "weighted_sampling class_weights",
        "Best epoch and thresholds": "monitor patience threshold_criterion sensitivity",
        "Images and augmentation": "resize_size start_size random_crop flip rotation scale shift "
        "brightness contrast erasing mixup laplacian tta",
        "Split": "test_fraction val_fraction folds fold keep_duplicates_together",
        "Data": "no_finding_class drop_no_finding min_count skip_broken pseudo_labels "
        "pseudo_threshold",
        "Machine": "device workers shuffle_block",
        "Folders": "data_dir runs_dir submissions_dir",
    },
)


def main(args: Sequence[str]) -> None:
    """Read the flags over what they start from, which some of them name, and train."""
    # A recipe's defaults are for --help to show too, so it is answered once that is known.
    given = [arg for arg in args if arg not in HELP_FLAGS]
    with joined():
        default = from_main(lambda: _defaults(given)) if given or not args else None
        train(parse_flags(TrainConfig, args, prog=PROG, help=HELP, default=default))


class _Unchecked(TrainConfig):
    """Flags that are still without the settings that they start from and have to fit."""

    def __post_init__(self) -> None:
        pass


def _defaults(given: Sequence[str]) -> TrainConfig:
    """A resumed run's own settings, or the recipe of the competition and over it the named one."""
    config = parse_flags(_Unchecked, given, prog=PROG, help=HELP)
    if config.resume:
        # How many devices there are is not the run's, but the machine's.
        saved = RunFolder.open(config.resume).config()
        return replace(saved, time_limit=None, devices=None)
    competition = choose_competition(config.competition, config.data, config.data_dir)
    own = competition.recipe if competition else {}
    where = competition.slug if competition else "the recipe"
    return TrainConfig.from_recipe({**own, **RECIPES[config.recipe]}, where)


if __name__ == "__main__":
    run_command(main)
