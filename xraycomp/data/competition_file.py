"""A competition as a TOML file: read, and written back."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from xraycomp.data.competition import (
    COLUMN_CONTENTS,
    METRICS,
    PROBABILITY,
    SOURCES,
    TASKS,
    Boxes,
    Competition,
    Labelled,
    Submission,
)
from xraycomp.data.competition_checks import check_competition
from xraycomp.data.toml import (
    Reader,
    built_in_names,
    format_section,
    format_value,
    parse_toml,
    read_named,
)

BUILT_IN = Path(__file__).parent / "competitions"
FINDINGS_RECIPE = {"monitor": "val_auroc", "label_smoothing": 0.0}
"""What a multilabel competition starts from where its own recipe says nothing else: F1 at 0.5 is 0
for rare findings, and smoothing raises every probability far above their share."""


def built_in_slugs() -> list[str]:
    """The slugs of the competitions that come with the kit."""
    return built_in_names(BUILT_IN)


def load_competition(name: str) -> Competition:
    """Load a built-in competition by its slug, or any competition by the path of its TOML file.

    Raises ``UserError`` for an unknown slug, a missing file and everything that
    ``parse_competition`` refuses.
    """
    return parse_competition(*read_named(name, BUILT_IN, "competition"))


def parse_competition(text: str, where: str) -> Competition:
    """Read and validate a competition's TOML ``text``; ``where`` names it in errors.

    Raises ``UserError`` for TOML that does not parse, unknown and missing keys, values of a wrong
    type or outside their list, and columns or classes that contradict each other.
    """
    table = parse_toml(text, where)
    reader = Reader(where)
    reader.check_keys(
        table,
        "",
        required={"slug", "source", "task", "classes", "metric", "train"},
        optional={
            *("title", "dataset", "normal", "positive", "pseudo_labels"),
            *("test", "patient", "submission", "boxes", "recipe"),
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
        pseudo_labels=_read_flag(reader, table, "pseudo_labels", default=True),
        boxes=_read_boxes(reader, table),
        recipe=reader.table(table, "recipe"),
    )
    if competition.multilabel:
        competition = replace(competition, recipe={**FINDINGS_RECIPE, **competition.recipe})
    check_competition(competition, where)
    return competition


def _read_train(reader: Reader, table: dict[str, Any], classes: tuple[str, ...]) -> Labelled:
    where = reader.table(table, "where")
    names = reader.table(table, "names")
    columns = reader.table(table, "columns")
    tables = ("where", "names", "columns")
    if "others" in table:
        reader.choice(table, "others", ("ignore",))
    return Labelled(
        **{key: reader.text(table, key) for key in table if key not in tables},
        where={
            column: (text,) if isinstance(text, str) else reader.texts(where, column)
            for column, text in where.items()
        },
        names={name: reader.choice(names, name, classes) for name in names},
        columns={name: reader.text(columns, name) for name in columns},
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
    suffix = _read_flag(reader, section, "suffix", "submission.")
    return Submission(columns=columns, sample=reader.text(section, "sample"), suffix=suffix)


def _read_flag(
    reader: Reader, table: dict[str, Any], key: str, prefix: str = "", *, default: bool = False
) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise reader.error(f"{prefix}{key} must be true or false")
    return value


def _read_boxes(reader: Reader, table: dict[str, Any]) -> Boxes | None:
    if "boxes" not in table:
        return None
    section = reader.table(table, "boxes")
    reader.check_keys(section, "boxes.", required={"table"}, optional={"size", "names"})
    size = section.get("size", 0)
    if type(size) is not int or size < 0:
        raise reader.error("boxes.size must be a number of pixels")
    names = reader.table(section, "names")
    return Boxes(
        reader.text(section, "table"), size, {name: reader.text(names, name) for name in names}
    )


def format_competition(competition: Competition) -> str:
    """The competition as TOML text; ``parse_competition`` reads it back to an equal object."""
    top = ("slug", "title", "source", "dataset", "task", "classes", "normal", "metric", "positive")
    lines = [
        f"{key} = {format_value(getattr(competition, key))}"
        for key in top
        if getattr(competition, key)
    ]
    if not competition.pseudo_labels:
        lines.append("pseudo_labels = false")
    train = {key: value for key, value in vars(competition.train).items() if value}
    where, names, columns = (train.pop(key, {}) for key in ("where", "names", "columns"))
    sections: dict[str, Mapping[str, Any]] = {
        "train": train,
        "train.where": where,
        "train.names": names,
        "train.columns": columns,
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
    if boxes := competition.boxes:
        sections["boxes"] = {"table": boxes.table, **({"size": boxes.size} if boxes.size else {})}
        sections["boxes.names"] = boxes.names
    for name, section in sections.items():
        lines += format_section(name, section)
    return "\n".join(lines) + "\n"
