"""What a competition's description must not say: keys that contradict each other."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from xraycomp.console.errors import UserError
from xraycomp.data.competition import COLUMNS, FOLD, PSEUDO_LABEL, Competition
from xraycomp.data.labels import SEPARATOR, UNKNOWN


def check_competition(competition: Competition, where: str) -> None:
    """Raise ``UserError`` for what contradicts itself; ``where`` names the competition's origin."""
    checks = (_wrong_files, _wrong_classes, _wrong_labels, _wrong_patients)
    if complaints := [complaint for check in checks for complaint in check(competition)]:
        raise UserError(f"{where}: {complaints[0]}.")


def _wrong_files(competition: Competition) -> Iterator[str]:
    train = competition.train
    paths = {"train.images": train.images, "test.images": competition.test}
    if train.labels != "folders":
        keys = ("labels", "join", "train_list", "test_list")
        paths |= {f"train.{key}": getattr(train, key) for key in keys}
    if competition.boxes:
        paths["boxes.table"] = competition.boxes.table
    for key, text in paths.items():
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts:
            yield f"{key} = {text!r} must lie below the competition's root"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", competition.slug):
        yield f"slug {competition.slug!r} may hold letters, digits, '-' and '_' only, as on Kaggle"
    if competition.dataset and (
        competition.source != "dataset" or not re.fullmatch(r"[\w-]+/[\w-]+", competition.dataset)
    ):
        yield 'dataset must be "owner/slug", of a competition with source = "dataset"'
    if competition.submission and not competition.test:
        yield "there is a [submission] but no [test]"


def _wrong_classes(competition: Competition) -> Iterator[str]:
    classes = competition.classes
    if len(classes) < 2 or len(set(classes)) < len(classes):
        yield "classes must name at least two classes, each once"
    for name in classes:
        if SEPARATOR in name or name.startswith(UNKNOWN):
            yield f"the class {name!r} may hold no {SEPARATOR} and not begin with {UNKNOWN}"
    if "image" in classes:
        yield "a class cannot be called image, the id column of prediction tables"
    if competition.task == "binary" and len(classes) != 2:
        yield "task is binary but classes does not name exactly two"
    if competition.metric == "hard_label_auroc" and competition.multilabel:
        yield "metric hard_label_auroc is for one class an image, not for multilabel"
    if competition.metric == "hard_label_auroc" and not competition.positive:
        yield "metric hard_label_auroc needs the key positive"


def _wrong_labels(competition: Competition) -> Iterator[str]:
    train = competition.train
    for name, column in train.columns.items():
        if name in ("", "name", *COLUMNS, FOLD, PSEUDO_LABEL):
            yield f"train.columns has a column called {name!r}, which is taken; choose another name"
        if not column:
            yield f"train.columns.{name} is empty; it must name a column of the label table"
    if train.labels == "folders":
        given = [key for key, value in vars(train).items() if value]
        if len(given) > 2 or competition.patient_column:
            yield 'columns are given but train.labels is "folders", not a CSV table'
        if competition.multilabel:
            yield "task is multilabel, which needs a CSV table as train.labels"
        return
    if not train.image_column:
        yield "a CSV table as train.labels needs train.image_column"
    if not train.label_column and (train.separator or train.none or train.others):
        yield "train.separator, .none and .others are given but train.label_column is not"
    if bool(train.join) != bool(train.join_column):
        yield "train.join and train.join_column need each other"
    if bool(train.train_list) != bool(train.test_list):
        yield "train.train_list and train.test_list need each other"
    if train.test_list and competition.test:
        yield "there is a [test] and a train.test_list; one test set is enough"
    if train.none and not competition.multilabel:
        yield "train.none is for multilabel; other tasks name a class with train.names"


def _wrong_patients(competition: Competition) -> Iterator[str]:
    if competition.patient_column and competition.patient_pattern:
        yield "patient.column and patient.pattern are both given; one is enough"
    if competition.patient_pattern:
        try:
            groups = re.compile(competition.patient_pattern).groups
        except re.error as error:
            yield f"patient.pattern is not a regular expression: {error}"
            return
        if groups < 1:
            yield "patient.pattern needs a group (in parentheses) for the patient"
