"""A competition as a TOML file: where images and labels lie and what a submission looks like."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from xraycomp.console.errors import UserError, listing

BUILT_IN = Path(__file__).parent / "competitions"
SOURCES = ("competition", "dataset", "drawn")
TASKS = ("multiclass", "binary", "multilabel")
METRICS = ("accuracy", "macro_f1", "auroc", "average_precision", "log_loss", "hard_label_auroc")
COLUMN_CONTENTS = ("id", "label_index", "label_name")
PROBABILITY = "probability:"


@dataclass(frozen=True)
class Labelled:
    """Where training images and their labels lie, relative to the competition's root."""

    images: str
    """Folder of the images; may hold ``*`` (``images_*/images``)."""
    labels: str
    """``"folders"``: one folder a class below ``images``; else the path of a CSV table."""
    image_column: str = ""
    label_column: str = ""
    separator: str = ""
    """What parts several labels in one cell of ``label_column`` (multilabel)."""


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
    def drawn(self) -> bool:
        """Whether the images are drawn and not X-rays, which every report must say."""
        return self.source == "drawn"


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
    reader = _Reader(where)
    reader.check_keys(
        table,
        "",
        required={"slug", "source", "task", "classes", "metric", "train"},
        optional={"title", "normal", "positive", "test", "patient", "submission", "recipe"},
    )
    classes = reader.texts(table, "classes")
    train = reader.table(table, "train")
    reader.check_keys(
        train,
        "train.",
        required={"images", "labels"},
        optional={"image_column", "label_column", "separator"},
    )
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
        normal=reader.choice(table, "normal", classes, default=""),
        metric=reader.choice(table, "metric", METRICS),
        positive=reader.choice(table, "positive", classes, default=""),
        train=Labelled(**{key: reader.text(train, key) for key in train}),
        test=reader.text(test, "images"),
        patient_column=reader.text(patient, "column"),
        patient_pattern=reader.text(patient, "pattern"),
        submission=_read_submission(reader, table, classes),
        recipe=reader.table(table, "recipe"),
    )
    _check_consistent(reader, competition)
    return competition


def _read_submission(
    reader: "_Reader", table: dict[str, Any], classes: tuple[str, ...]
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


def _check_consistent(reader: "_Reader", competition: Competition) -> None:
    train = competition.train
    for key, folder in (("train", train.images), ("test", competition.test)):
        path = PurePosixPath(folder)
        if path.is_absolute() or ".." in path.parts:
            raise reader.error(f"{key}.images = {folder!r} must lie below the competition's root")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", competition.slug):
        raise reader.error(
            f"slug {competition.slug!r} may hold letters, digits, '-' and '_' only, as on Kaggle"
        )
    if len(competition.classes) < 2 or len(set(competition.classes)) < len(competition.classes):
        raise reader.error("classes must name at least two classes, each once")
    if "image" in competition.classes:
        raise reader.error("a class cannot be called image, the id column of prediction tables")
    if competition.task == "binary" and len(competition.classes) != 2:
        raise reader.error("task is binary but classes does not name exactly two")
    if competition.metric == "hard_label_auroc" and competition.task == "multilabel":
        raise reader.error("metric hard_label_auroc is for one class an image, not for multilabel")
    if competition.metric == "hard_label_auroc" and not competition.positive:
        raise reader.error("metric hard_label_auroc needs the key positive")
    if train.labels == "folders":
        if train.image_column or train.label_column or competition.patient_column:
            raise reader.error('columns are given but train.labels is "folders", not a CSV table')
        if competition.task == "multilabel":
            raise reader.error("task is multilabel, which needs a CSV table as train.labels")
    elif not (train.image_column and train.label_column):
        raise reader.error("a CSV table as train.labels needs train.image_column and .label_column")
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


def format_competition(competition: Competition) -> str:
    """The competition as TOML text; ``parse_competition`` reads it back to an equal object."""
    top = ("slug", "title", "source", "task", "classes", "normal", "metric", "positive")
    lines = [
        f"{key} = {_toml(getattr(competition, key))}" for key in top if getattr(competition, key)
    ]
    train = {key: value for key, value in vars(competition.train).items() if value}
    sections: dict[str, Mapping[str, Any]] = {
        "train": train,
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
        filled = {key: value for key, value in section.items() if value != ""}
        if filled:
            lines += ["", f"[{name}]"]
            lines += [f"{_key(key)} = {_toml(value)}" for key, value in filled.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    # JSON's strings, numbers, booleans and arrays of them are valid TOML.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


@dataclass(frozen=True)
class _Reader:
    """Takes values out of TOML tables; every complaint names the file and the key."""

    where: str

    def error(self, complaint: str) -> UserError:
        return UserError(f"{self.where}: {complaint}.")

    def check_keys(
        self, table: Mapping[str, Any], prefix: str, *, required: set[str], optional: set[str]
    ) -> None:
        for key in table:
            if key not in required | optional:
                close = get_close_matches(key, required | optional, n=1)
                hint = f"; did you mean {prefix}{close[0]}" if close else ""
                raise self.error(f"unknown key {prefix}{key}{hint}")
        for key in sorted(required):
            if key not in table:
                raise self.error(f"the key {prefix}{key} is missing")

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise self.error(f"{key} must be a text in quotes")
        return value

    def texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = table.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} must be a list of texts in quotes")
        return tuple(value)

    def table(self, table: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key} must be a table ([{key}])")
        return value

    def choice(
        self,
        table: Mapping[str, Any],
        key: str,
        choices: tuple[str, ...],
        default: str | None = None,
    ) -> str:
        if default is not None and key not in table:
            return default
        value = self.text(table, key)
        if value not in choices:
            raise self.error(f"{key} = {value!r} is not one of: {', '.join(choices)}")
        return value
