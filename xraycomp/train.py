"""python -m xraycomp.train: from a competition's files to a judged run and a submission."""

from collections.abc import Sequence

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.help import HELP_FLAGS, Help
from xraycomp.job.flags import find_defaults, read_alone
from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import from_main
from xraycomp.model.processes import joined

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
        "Folders": "data_dir runs_dir submissions_dir track",
    },
)


def main(args: Sequence[str]) -> None:
    """Read the flags over what they start from, which some of them name, and train."""
    # A recipe's defaults are for --help to show too, so it is answered once that is known.
    given = [arg for arg in args if arg not in HELP_FLAGS]
    with joined():
        default = from_main(lambda: _defaults(given)) if given or not args else None
        train(parse_flags(TrainConfig, args, prog=PROG, help=HELP, default=default))


def _defaults(given: Sequence[str]) -> TrainConfig:
    return find_defaults(read_alone(given, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
