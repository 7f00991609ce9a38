"""A competition as a TOML file: where images and labels lie and what a submission looks like."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from xraycomp.console.errors import UserError, listing
from xraycomp.data.labels import SEPARATOR, UNKNOWN
from xraycomp.data.toml import Reader, format_section, format_value

BUILT_IN = Path(__file__).parent / "competitions"
SOURCES = ("competition", "dataset", "drawn")
TASKS = ("multiclass", "binary", "multilabel")
METRICS = ("accuracy", "macro_f1", "auroc", "average_precision", "log_loss", "hard_label_auroc")
COLUMN_CONTENTS = ("id", "label_index", "label_name")
PROBABILITY = "probability:"
FINDINGS_RECIPE = {"monitor": "val_auroc", "label_smoothing": 0.0}
"""What a multilabel competition starts from where its own recipe says nothing else: F1 at 0.5 is 0
for rare findings, and smoothing raises every probability far above their share."""


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


def built_in_slugs() -> list[str]:
    """The slugs of the competitions that come with the kit."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def load_competition(name: str) -> Competition:
    """Load a built-in competition by its slug, or any competition by the path of its TOML file.

    Raises ``UserError`` for an unknown slug, a missing file and everything that
    ``parse_competition`` refuses.
    """
    path = Path(name) if name.endswith(".toml") else BUILT_IN / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise UserError(f"There is no competition file {path}. Check the path.")
        close = get_close_matches(name, built_in_slugs(), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(
            f"There is no built-in competition {name!r} (built in: {listing(built_in_slugs())})."
            f"{hint} For one of your own give the path of its TOML file."
        )
    try:
        return parse_competition(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}).") from error


def parse_competition(text: str, where: str) -> Competition:
    """Read and validate a competition's TOML ``text``; ``where`` names it in errors.

    Raises ``UserError`` for TOML that does not parse, unknown and missing keys, values of a wrong
    type or outside their list, and columns or classes that contradict each other.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not valid TOML: {error}.") from error
    reader = Reader(where)
    reader.check_keys(
        table,
        "",
        required={"slug", "source", "task", "classes", "metric", "train"},
        optional={
            *("title", "dataset", "normal", "positive"),
            *("test", "patient", "submission", "recipe"),
        },
    )
    classes = reader.texts(table, "classes")
    train = reader.table(table, "train")
    keys = {item.name for item in fields(Labelled)}
    required = {"images", "labels"}
    reader.check_keys(train, "train.", required=required, optional=keys - required)
    test = reader.table(table, "test")
    reader.check_keys(test, "test.", required={"images"} if test else set(), optional=set())
    for key, section in (("train", train), ("test", test)):
        if section.get("images") == "":
            raise reader.error(f"{key}.images is empty; it must name a folder (. is the root)")
    patient = reader.table(table, "patient")
    reader.check_keys(patient, "patient.", required=set(), optional={"column", "pattern"})
    competition = Competition(
        slug=reader.text(table, "slug"),
        title=reader.text(table, "title") or reader.text(table, "slug"),
        source=reader.choice(table, "source", SOURCES),
        task=reader.choice(table, "task", TASKS),
        classes=classes,
        dataset=reader.text(table, "dataset"),
        normal=reader.choice(table, "normal", classes, default=""),
        metric=reader.choice(table, "metric", METRICS),
        positive=reader.choice(table, "positive", classes, default=""),
        train=_read_train(reader, train, classes),
        test=reader.text(test, "images"),
        patient_column=reader.text(patient, "column"),
        patient_pattern=reader.text(patient, "pattern"),
        submission=_read_submission(reader, table, classes),
        recipe=reader.table(table, "recipe"),
    )
    if competition.multilabel:
        competition = replace(competition, recipe={**FINDINGS_RECIPE, **competition.recipe})
    check_competition(competition, where)
    return competition


def _read_train(reader: Reader, table: dict[str, Any], classes: tuple[str, ...]) -> Labelled:
    where = reader.table(table, "where")
    names = reader.table(table, "names")
    if "others" in table:
        reader.choice(table, "others", ("ignore",))
    return Labelled(
        **{key: reader.text(table, key) for key in table if key not in ("where", "names")},
        where={
            column: (text,) if isinstance(text, str) else reader.texts(where, column)
            for column, text in where.items()
        },
        names={name: reader.choice(names, name, classes) for name in names},
    )


def _read_submission(
    reader: Reader, table: dict[str, Any], classes: tuple[str, ...]
) -> Submission | None:
    if "submission" not in table:
        return None
    section = reader.table(table, "submission")
    reader.check_keys(section, "submission.", required={"columns"}, optional={"sample", "suffix"})
    columns = reader.table(section, "columns")
    allowed = (*COLUMN_CONTENTS, *(PROBABILITY + name for name in classes))
    for name in columns:
        reader.choice(columns, name, allowed)
    if list(columns.values()).count("id") != 1 or len(columns) < 2:
        raise reader.error('submission.columns needs one column = "id" and one with a prediction')
    suffix = section.get("suffix", False)
    if not isinstance(suffix, bool):
        raise reader.error("submission.suffix must be true or false")
    return Submission(columns=columns, sample=reader.text(section, "sample"), suffix=suffix)


def check_competition(competition: Competition, where: str) -> None:
    """Raise ``UserError`` for what contradicts itself; ``where`` names the competition's origin."""
    reader, train = Reader(where), competition.train
    for key, folder in (("train", train.images), ("test", competition.test)):
        path = PurePosixPath(folder)
        if path.is_absolute() or ".." in path.parts:
            raise reader.error(f"{key}.images = {folder!r} must lie below the competition's root")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", competition.slug):
        raise reader.error(
            f"slug {competition.slug!r} may hold letters, digits, '-' and '_' only, as on Kaggle"
        )
    if competition.dataset and (
        competition.source != "dataset" or not re.fullmatch(r"[\w-]+/[\w-]+", competition.dataset)
    ):
        raise reader.error('dataset must be "owner/slug", of a competition with source = "dataset"')
    if len(competition.classes) < 2 or len(set(competition.classes)) < len(competition.classes):
        raise reader.error("classes must name at least two classes, each once")
    for name in competition.classes:
        if SEPARATOR in name or name.startswith(UNKNOWN):
            raise reader.error(
                f"the class {name!r} may hold no {SEPARATOR} and not begin with {UNKNOWN}"
            )
    if "image" in competition.classes:
        raise reader.error("a class cannot be called image, the id column of prediction tables")
    if competition.task == "binary" and len(competition.classes) != 2:
        raise reader.error("task is binary but classes does not name exactly two")
    if competition.metric == "hard_label_auroc" and competition.task == "multilabel":
        raise reader.error("metric hard_label_auroc is for one class an image, not for multilabel")
    if competition.metric == "hard_label_auroc" and not competition.positive:
        raise reader.error("metric hard_label_auroc needs the key positive")
    _check_table(reader, competition)
    if competition.submission and not competition.test:
        raise reader.error("there is a [submission] but no [test]")
    if competition.patient_column and competition.patient_pattern:
        raise reader.error("patient.column and patient.pattern are both given; one is enough")
    if competition.patient_pattern:
        try:
            groups = re.compile(competition.patient_pattern).groups
        except re.error as error:
            raise reader.error(f"patient.pattern is not a regular expression: {error}") from error
        if groups < 1:
            raise reader.error("patient.pattern needs a group (in parentheses) for the patient")


def _check_table(reader: Reader, competition: Competition) -> None:
    """What the keys of ``[train]`` say of a label table must fit together."""
    train = competition.train
    if train.labels == "folders":
        given = [key for key, value in vars(train).items() if value]
        if len(given) > 2 or competition.patient_column:
            raise reader.error('columns are given but train.labels is "folders", not a CSV table')
        if competition.multilabel:
            raise reader.error("task is multilabel, which needs a CSV table as train.labels")
        return
    for key in ("labels", "join", "train_list", "test_list"):
        path = PurePosixPath(getattr(train, key))
        if path.is_absolute() or ".." in path.parts:
            raise reader.error(f"train.{key} = '{path}' must lie below the competition's root")
    if not train.image_column:
        raise reader.error("a CSV table as train.labels needs train.image_column")
    if not train.label_column and (train.separator or train.none or train.others):
        raise reader.error(
            "train.separator, .none and .others are given but train.label_column is not"
        )
    if bool(train.join) != bool(train.join_column):
        raise reader.error("train.join and train.join_column need each other")
    if bool(train.train_list) != bool(train.test_list):
        raise reader.error("train.train_list and train.test_list need each other")
    if train.test_list and competition.test:
        raise reader.error("there is a [test] and a train.test_list; one test set is enough")
    if train.none and not competition.multilabel:
        raise reader.error(
            "train.none is for multilabel; other tasks name a class with train.names"
        )


def format_competition(competition: Competition) -> str:
    """The competition as TOML text; ``parse_competition`` reads it back to an equal object."""
    top = ("slug", "title", "source", "dataset", "task", "classes", "normal", "metric", "positive")
    lines = [
        f"{key} = {format_value(getattr(competition, key))}"
        for key in top
        if getattr(competition, key)
    ]
    train = {key: value for key, value in vars(competition.train).items() if value}
    where, names = train.pop("where", {}), train.pop("names", {})
    sections: dict[str, Mapping[str, Any]] = {
        "train": train,
        "train.where": where,
        "train.names": names,
        "test": {"images": competition.test},
        "patient": {
            "column": competition.patient_column,
            "pattern": competition.patient_pattern,
        },
        "recipe": competition.recipe,
    }
    if competition.submission:
        sections["submission"] = {
            "sample": competition.submission.sample,
            "suffix": competition.submission.suffix,
        }
        sections["submission.columns"] = competition.submission.columns
    for name, section in sections.items():
        lines += format_section(name, section)
    return "\n".join(lines) + "\n"
