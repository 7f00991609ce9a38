"""The training configuration: everything that decides a run, in one frozen dataclass."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.data.split import SplitPlan
from xraycomp.data.toml import Reader
from xraycomp.model.recipes import RECIPES, Recipe
from xraycomp.model.stages import ALL, Stage, parse_stages
from xraycomp.model.views import check_views

Pool = Literal["", "avg", "max", "attention"]
"""The network's own, the average, the maximum, or the average weighted by a learned map."""

_MAY_CHANGE = {
    *("resume", "overwrite", "time_limit", "device", "devices", "workers", "track"),
    *("data", "data_dir", "runs_dir", "submissions_dir"),
}
"""What a run may go on with otherwise than it began."""
_MAY_MOVE = {"weights", "competition", "pseudo_labels"}


@dataclass(frozen=True)
class TrainConfig:
    """Train on a competition: data, split, training, metrics, predictions and submission."""

    competition: str | None = None
    """Built-in slug or path of a TOML file. Default: what lies in the data folder, else phantom."""
    data: Path | None = None
    """The competition's zip or extracted folder, wherever it is; nothing is written into it."""
    name: str | None = None
    """Name of the run folder. Default: competition, architecture and time."""
    resume: Path | None = None
    """Run folder to continue with its own settings. Only --data, folders, devices, workers,
    --track and --time-limit may be other ones; weights and TOML file may lie elsewhere."""
    overwrite: bool = False
    """Replace the run folder if it exists."""
    recipe: Recipe = ""
    """Settings over the competition's own: fast, or seed, with which the kit began."""

    arch: str = "resnet18"
    """Any torchvision classifier, or timm:<name>."""
    weights: str = "none"
    """none, imagenet, or the path of a .pth, .pt or .safetensors file."""
    channels: Literal["gray", "rgb"] = "gray"
    """What the network's stem reads: one gray channel, into which its three are folded, or rgb,
    three equal ones. They begin as the same function, but do not learn alike."""
    pool: Pool = ""
    """How the last feature map is pooled: avg, max or attention. Default: the network's own way."""
    head: tuple[int, ...] = ()
    """Widths of new layers before the classifier's last one, such as 512 256 128."""
    codes_epochs: int = 0
    """First train the head alone for this many epochs, on codes: the features that the body, as
    --weights has it, gives for each image, computed once. Then --epochs train the whole network."""
    codes_passes: int = 0
    """Augmented copies of each training image, mirrored ones among them, that get codes too."""
    image_size: int = 224
    """Side of the square that the network sees, in pixels."""
    resize_size: int | None = None
    """Side to which images are resized before the crop, in pixels. Default: image_size * 8/7."""
    start_size: int = 0
    """Train at this many pixels at first, at image_size from two thirds of the epochs on, and grow
    between (progressive resizing); 0 trains at image_size throughout."""
    epochs: int = 10
    """Passes over the training set."""
    batch_size: int = 32
    """Images a step of the network."""
    accumulate: int = 1
    """Steps whose gradients are averaged before the optimizer moves."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD has momentum; AdamW decays weights apart from the gradient."""
    lr: float = 0.02
    """Highest learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay; never on norms and biases."""
    schedule: Literal["cosine", "onecycle", "step", "constant"] = "cosine"
    """Course of the learning rate; step divides it by 10 at a half and at three quarters."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up (cosine, step, constant)."""
    stages: str = ""
    """Train in stages in place of --lr and --epochs: "layers:lr:epochs[:loss] ...". Layers: head,
    all, or the name of a layer of the network; it and all after it learn, the rest is frozen."""

    loss: Literal["auto", "cross_entropy", "bce", "weighted_bce", "focal", "asymmetric"] = "auto"
    """auto is cross_entropy for one class an image, bce for findings; focal is for both."""
    gamma: float = 2.0
    """How strongly focal plays down what is already right."""
    alpha: float = 0.25
    """Weight in focal of findings that are there; those that are not have 1 - alpha."""
    gamma_neg: float = 4.0
    """The gamma of asymmetric for findings that are not there."""
    gamma_pos: float = 1.0
    """The gamma of asymmetric for findings that are there."""
    margin: float = 0.05
    """Probability below which findings that are not there cost asymmetric nothing."""
    max_weight: float = 20.0
    """Largest weight in weighted_bce, which balances the images with and without a finding."""
    label_smoothing: float = 0.05
    """Share of each label given to all classes; for findings, to there and not there."""
    class_weights: bool = False
    """Weight the loss by inverse class frequency (in place of --weighted-sampling, as a rule)."""
    weighted_sampling: bool = True
    """Draw training images so that all classes come equally often."""
    clip_grad: float = 5.0
    """Largest gradient norm; 0 does not clip."""
    ema_decay: float = 0.0
    """Decay a step of the averaged weights that are judged and kept; 0 averages nothing."""
    swa_epochs: int = 0
    """Average the weights after each of the last epochs, this many; the average is judged after
    the last one, and kept where it is better. 0 averages nothing."""
    patience: int = 0
    """Stop after this many epochs without a better score; 0 never does."""
    monitor: Literal["val_macro_f1", "val_auroc", "val_accuracy", "val_loss"] = "val_macro_f1"
    """The score that chooses the best epoch."""
    threshold_criterion: Literal["f1", "youden", "sensitivity"] = "f1"
    """How it is chosen on validation from which probability on a finding is called: best F1, best
    sensitivity + specificity (Youden), or the highest that reaches --sensitivity."""
    sensitivity: float = 0.95
    """Share of a finding's images that are to be called, for --threshold-criterion sensitivity."""

    flip: bool = True
    """Mirror half of the training images."""
    rotation: float = 7.0
    """Rotate training images by up to this many degrees."""
    scale: float = 0.1
    """Zoom training images in or out by up to this fraction."""
    shift: float = 0.0
    """Shift training images by up to this fraction of the side, beyond the random crop."""
    random_crop: bool = True
    """Crop training images at random places; else at the centre, as in evaluation."""
    brightness: float = 0.1
    """Add up to this much to training images in 0..1."""
    contrast: float = 0.1
    """Change the contrast of training images by up to this fraction."""
    erasing: float = 0.0
    """Probability of blanking a random rectangle of a training image."""
    mixup: float = 0.0
    """Alpha of mixup; 0 mixes nothing."""
    laplacian: float = 0.0
    """How much the fine detail of every image is raised (Laplacian pyramid); 1 doubles it, 0 leaves
    images as they are. It has not helped where it was tried."""

    no_finding_class: bool = False
    """Make images without any finding a class of their own (multilabel)."""
    drop_no_finding: bool = False
    """Leave out images without any finding (multilabel)."""
    min_count: int = 0
    """Leave out findings with fewer labelled images (multilabel)."""
    split_by: Literal["fraction", "official", "chexnet"] = "fraction"
    """fraction, official or chexnet: how the labelled images are parted; by --test-fraction and
    --val-fraction, by the official test list (with --val-fraction of the others), or 70/10/20 as
    CheXNet. By patient always."""
    test_fraction: float = 0.0
    """Share of the labelled images kept for testing."""
    val_fraction: float = 0.1
    """Share of the labelled images kept for validation."""
    folds: int = 0
    """Cut what is not for testing into this many folds instead, and train a network for each, which
    is validated on its fold; all are one run, whose validation is out-of-fold."""
    fold: int | None = None
    """Train the network of this fold alone, from 0. Default: all of them, one after another."""
    keep_duplicates_together: bool = True
    """Keep copies of one image, exact or near, on one side of the split."""
    skip_broken: bool = False
    """Leave out training images that do not decode, instead of stopping."""
    pseudo_labels: Path | None = None
    """Also learn from test images without labels, as this probability table of them says, where it
    is sure; if its networks have learned images that are validated here, figures may flatter."""
    pseudo_threshold: float = 0.95
    """Probability from which --pseudo-labels are sure of a class; that a finding is not there, they
    are from 1 minus this down."""
    seed: int = 0
    """Seed of split, sampling, augmentation and initial weights."""
    tta: tuple[str, ...] = ()
    """Average the final predictions over each image and named views of it: mirror; zoom, nearer by
    8/7; whole, without the crop; left and right, turned by 5 degrees."""

    time_limit: float | None = None
    """Minutes after which to stop cleanly, with predictions and submission; able to resume."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    devices: int | None = None
    """How many GPUs (or CPU processes) train together. Default: all GPUs, one CPU process; with
    torchrun, the processes that it has started, on several machines too."""
    shuffle_block: int = 0
    """Shuffle training images in blocks of this many neighbours, 16 blocks at a time; for a cache
    larger than memory, where 64 makes a slow disk several times as fast. 0 shuffles freely."""
    workers: int | None = None
    """Threads that decode images. Default: all CPUs."""
    track: Literal["", "tensorboard", "wandb"] = ""
    """Also tell tensorboard or wandb (Weights & Biases) of every epoch, into the run folder; wandb
    stays offline unless WANDB_MODE says otherwise. Default: neither."""
    data_dir: Path = Path("data")
    """Folder for unpacked data and caches."""
    runs_dir: Path = Path("runs")
    """Folder for run folders."""
    submissions_dir: Path = Path("submissions")
    """Folder for checked submissions."""

    def __post_init__(self) -> None:
        """Raise ``UserError`` for values outside their range."""
        for name in ("image_size", "epochs", "batch_size", "accumulate"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        object.__setattr__(self, "head", tuple(self.head))  # JSON and TOML have lists
        object.__setattr__(self, "tta", check_views(self.tta or ()))
        widths = all(type(width) is int and width >= 1 for width in self.head)
        self._check("head", widths, "a list of widths of at least 1")
        for name in (
            *("min_count", "lr", "momentum", "weight_decay", "warmup_epochs", "clip_grad"),
            *("gamma", "gamma_neg", "gamma_pos", "mixup", "codes_epochs", "codes_passes"),
            *("seed", "shuffle_block", "laplacian"),
        ):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in (
            *("label_smoothing", "margin", "ema_decay"),
            *("scale", "shift", "brightness", "contrast"),
        ):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._check("alpha", 0 <= self.alpha <= 1, "from 0 to 1")
        self._check("max_weight", self.max_weight > 0, "more than 0")
        self._check("pseudo_threshold", 0.5 < self.pseudo_threshold <= 1, "over 0.5 and at most 1")
        self._check("sensitivity", 0 < self.sensitivity <= 1, "more than 0 and at most 1")
        for item in fields(self):
            if get_origin(item.type) is Literal:
                choices = get_args(item.type)
                named = ", ".join(filter(None, choices))
                self._check(item.name, getattr(self, item.name) in choices, f"one of {named}")
        self._check("erasing", 0 <= self.erasing <= 1, "a probability from 0 to 1")
        if self.name is not None:
            # The folder of that name is replaced on --overwrite: it must not be any folder.
            plain = Path(self.name).name == self.name and self.name not in ("", "..")
            self._check("name", plain, "a plain folder name")
        if self.resize_size is not None:
            self._check("resize_size", self.resize_size >= self.image_size, "image_size or more")
        if self.time_limit is not None:
            self._check("time_limit", self.time_limit > 0, "more than 0 minutes")
        self._check("start_size", 0 <= self.start_size <= self.image_size, "image_size or less")
        for name in ("devices", "workers"):
            if getattr(self, name) is not None:
                self._check(name, getattr(self, name) >= 1, "at least 1")
        last = self.training_stages()[-1].epochs
        fits = 0 <= self.swa_epochs <= last
        self._check("swa_epochs", fits, f"from 0 to {last}, the epochs of the last stage")
        losses = get_args(type(self).__annotations__["loss"])
        for stage in parse_stages(self.stages, self.loss):
            if stage.loss not in losses:
                raise UserError(
                    f"--stages: there is no loss {stage.loss!r}; use one of {', '.join(losses)}."
                )
        self.split_plan()  # refuses what is wrong with it

    def _check(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {getattr(self, name)}; it must be {what}.")

    def split_plan(self) -> SplitPlan:
        """How the labelled images are parted."""
        return SplitPlan(**{item.name: getattr(self, item.name) for item in fields(SplitPlan)})

    @property
    def cache_size(self) -> int:
        """Side of the cached images in pixels: what evaluation resizes to before its crop."""
        return self.resize_size or round(self.image_size * 8 / 7)

    @property
    def judging_batch_size(self) -> int:
        """Images at a time where nothing is learned: more than that gains little."""
        return max(self.batch_size, 32)

    def training_size(self, epoch: int) -> int:
        """Side of the training images in the epoch of that number, counted from 0, in pixels.

        They grow by multiples of 16, which convolutions like.
        """
        grown_by = sum(stage.epochs for stage in self.training_stages()) * 2 / 3
        if not self.start_size or epoch >= grown_by:
            return self.image_size
        grown = (self.image_size - self.start_size) * epoch / grown_by
        return min(self.start_size + round(grown / 16) * 16, self.image_size)

    def training_stages(self) -> tuple[Stage, ...]:
        """The stages in their order, at least one: without --stages the whole network is one."""
        whole = Stage(ALL, self.lr, self.epochs, self.loss)
        return parse_stages(self.stages, self.loss) or (whole,)

    def check_resumed(self, saved: Self, where: str) -> None:
        """Raise ``UserError`` where a run that began as ``saved`` cannot go on with these settings.

        Folders, devices and time may change; weights and competition, which may be paths, may lie
        elsewhere. ``where`` names the run.
        """
        for name, old, new in saved.differing(self):
            flag = name.replace("_", "-")
            raise UserError(
                f"{where} was started with --{flag} {old} and cannot go on with {new}. Leave "
                "that as it was, or train anew under another name."
            )

    def differing(self, other: Self) -> Iterator[tuple[str, Any, Any]]:
        """Name, value here and ``other`` value of each setting that decides what is trained and is
        not the same in both."""
        for name in sorted({item.name for item in fields(self)} - _MAY_CHANGE):
            one, two = getattr(self, name), getattr(other, name)
            if name in _MAY_MOVE and one and two:
                one, two = Path(one).name, Path(two).name
            if one != two:
                yield name, one, two

    @classmethod
    def for_competition(cls, name: str, /, **given: Any) -> Self:
        """The settings for a competition (a slug or the path of a TOML file): its own recipe's,
        over them the named recipe's, over these the ``given`` ones.

        Raises ``UserError`` as `load_competition` and `from_recipe` do.
        """
        recipe = {**load_competition(name).recipe, **RECIPES[given.get("recipe", "")]}
        return cls.from_recipe(recipe, name, **{"competition": name, **given})

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any], where: str, /, **given: Any) -> Self:
        """The defaults, over them a competition's ``recipe``, over that the ``given`` fields.

        Raises ``UserError`` where the recipe names an unknown field or a value of another type.
        """
        reader = Reader(where)
        reader.check_keys(recipe, "recipe.", required=set(), optional={f.name for f in fields(cls)})
        for name, value in recipe.items():
            if not cls.takes(name, value):
                kind = cls.kinds(name)[0].__name__
                raise reader.error(f"recipe.{name} is {value!r} but must be a {kind}")
        return cls(**{**recipe, **given})

    @classmethod
    def kinds(cls, name: str) -> tuple[type, ...]:
        """The types that the field takes: those of its choices, if it has any."""
        return _kinds(next(item.type for item in fields(cls) if item.name == name))

    @classmethod
    def takes(cls, name: str, value: Any) -> bool:
        """Whether a value read from TOML is of one of the field's types."""
        kinds = cls.kinds(name)
        return type(value) in kinds or (float in kinds and type(value) is int)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; ``from_json`` reads them back."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read the fields back from what ``to_json`` gave."""
        paths = {item.name for item in fields(cls) if Path in _kinds(item.type)}
        given: dict[str, Any] = {
            name: Path(value) if name in paths and value is not None else value
            for name, value in values.items()
        }
        return cls(**given)


def _kinds(annotation: Any) -> tuple[type, ...]:
    """The types that a field of that annotation takes: those of its choices, if it has any."""
    if get_origin(annotation) is tuple:
        return (list,)
    options = get_args(annotation) or (annotation,)
    return tuple(option if isinstance(option, type) else type(option) for option in options)
