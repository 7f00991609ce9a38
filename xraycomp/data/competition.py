"""What a competition is: where images and labels lie and what a submission looks like."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

SOURCES = ("competition", "dataset", "drawn")
TASKS = ("multiclass", "binary", "multilabel")
METRICS = ("accuracy", "macro_f1", "auroc", "average_precision", "log_loss", "hard_label_auroc")
COLUMN_CONTENTS = ("id", "label_index", "label_name")
PROBABILITY = "probability:"
COLUMNS = ("image", "path", "label", "patient", "split")
"""What every manifest has; a competition may name further columns."""
FOLD, PSEUDO_LABEL = "fold", "pseudo_label"
"""What the manifest of a run may have besides: see `part_manifest` and `read_pseudo_labels`."""


@dataclass(frozen=True)
class Labelled:
    """Where training images and their labels lie, relative to the competition's root."""

    images: str
    """Folder of the images; may hold ``*`` (``images_*/images``)."""
    labels: str
    """``"folders"``: one folder a class below ``images``; else the path of a CSV table."""
    image_column: str = ""
    label_column: str = ""
    """Empty: the table has a column a class, with 1, 0, or -1 or nothing for unknown."""
    separator: str = ""
    """What parts several labels in one cell of ``label_column``."""
    none: str = ""
    """The label that says that an image has none of the classes (multilabel)."""
    others: str = ""
    """``"ignore"``: labels that are no class do not count, and an image that is left with none is
    left out unless it may have none (multilabel). Else they are an error."""
    join: str = ""
    """Path of a CSV table with more columns, one row for each value of ``join_column``."""
    join_column: str = ""
    train_list: str = ""
    """Path of a text file that names the images of the official training list, one a line."""
    test_list: str = ""
    """The official test list: images with labels that are for testing."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column -> values: other rows of the table are left out."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the table calls a class -> the class."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Further column of the manifest, to slice results by -> the table's column that it is."""


@dataclass(frozen=True)
class Boxes:
    """Where a table says which part of an image shows its finding."""

    table: str
    """Path of a CSV table, relative to the competition's root: image, finding, x, y, width and
    height in this order, whatever its columns are called."""
    size: int = 0
    """Side in pixels of the square images that the coordinates are of; 0: the images as they lie
    here."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the table calls a finding -> the class. Findings that are no class are left out."""


@dataclass(frozen=True)
class Submission:
    """What the submission file looks like."""

    columns: Mapping[str, str]
    """Column name -> what goes into it: ``id``, ``label_index``, ``label_name`` or
    ``probability:<class>``, in the order of the file."""
    sample: str = ""
    """Path of the sample submission; without one the ids are those of the test folder."""
    suffix: bool = False
    """Whether the id keeps the image's file suffix (``test_0.png``)."""

    @property
    def id_column(self) -> str:
        """The name of the column that holds the image ids."""
        return next(name for name, content in self.columns.items() if content == "id")

    def images_of(self, ids: Iterable[str]) -> list[str]:
        """The images that ``ids`` stand for, as the manifest names them."""
        return [str(PurePosixPath(name).with_suffix("")) if self.suffix else name for name in ids]


@dataclass(frozen=True)
class Competition:
    """One competition. ``classes`` stand in index order: what integer labels mean."""

    slug: str
    title: str
    source: str
    task: str
    classes: tuple[str, ...]
    metric: str
    train: Labelled
    dataset: str = ""
    """``owner/slug`` of the files on Kaggle, where ``source`` is a data set."""
    normal: str = ""
    """The healthy class, where there is one."""
    positive: str = ""
    """The class that binary metrics score."""
    test: str = ""
    """Folder of the test images; empty where there is no test set."""
    patient_column: str = ""
    patient_pattern: str = ""
    """A regular expression on the file name whose first group is the patient."""
    submission: Submission | None = None
    pseudo_labels: bool = True
    """Whether its rules allow to learn from test images, labelled by a network."""
    boxes: Boxes | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Recommended training settings: fields of the training configuration."""

    @property
    def attached_as(self) -> str:
        """What a Kaggle kernel calls the files among its sources: a slug, or ``owner/slug``."""
        return self.dataset or self.slug

    @property
    def drawn(self) -> bool:
        """Whether the images are drawn and not X-rays, which every report must say."""
        return self.source == "drawn"

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several of the classes, or none."""
        return self.task == "multilabel"
