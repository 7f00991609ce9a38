"""A competition inferred from its files: a tree with one folder of images a class."""

import glob
import logging
from pathlib import Path

from xraycomp.console.errors import UserError
from xraycomp.data.competition import PROBABILITY, Competition, Labelled, Submission
from xraycomp.data.competition_checks import check_competition
from xraycomp.data.files import read_table
from xraycomp.data.manifest import find_images, visible_folders

log = logging.getLogger(__name__)


def infer_competition(root: Path, slug: str) -> Competition:
    """Recognise a tree with one folder of images a class, and a test folder beside it if any.

    The classes are in alphabetical order, which is printed, since a competition may well number
    them otherwise. Raises ``UserError`` where there is no such tree.
    """
    train = _find_class_tree(root)
    if train is None:
        raise UserError(
            f"No image-folder tree (train/<class>/<images>, two classes or more) was found in "
            f"{root}. Describe the competition in a TOML file and pass it with --competition."
        )
    classes = tuple(sorted(folder.name for folder in visible_folders(train)))
    beside = train.parent / "test"
    test = beside if train != root and find_images(beside) else None
    sample = next(iter(sorted(root.rglob("sample_submission.csv"))), None) if test else None
    normal = next((name for name in classes if name.lower() == "normal"), "")
    competition = Competition(
        slug=slug,
        title=slug,
        source="dataset",
        task="binary" if len(classes) == 2 else "multiclass",
        classes=classes,
        metric="macro_f1",
        train=Labelled(_pattern(train, root), "folders"),
        normal=normal,
        positive=next((name for name in classes if name != normal), "") if normal else "",
        test=_pattern(test, root) if test else "",
        submission=_infer_submission(root, sample, classes) if test else None,
    )
    check_competition(competition, str(root))
    order = ", ".join(f"{index} {name}" for index, name in enumerate(classes))
    log.info(
        "Inferred an image-folder tree at %s. Class order (alphabetical): %s. If the competition "
        "numbers its classes otherwise, write a TOML file and pass it with --competition.",
        train,
        order,
    )
    return competition


def _pattern(folder: Path, root: Path) -> str:
    """The pattern that names ``folder`` alone, whatever characters are in its name."""
    return glob.escape(folder.relative_to(root).as_posix())


def _find_class_tree(root: Path) -> Path | None:
    """The folder whose subfolders are classes: ``train`` if there is one, else the topmost."""
    folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    trees = [folder for folder in folders if _is_class_tree(folder)]
    return next((tree for tree in trees if tree.name == "train"), trees[0] if trees else None)


def _is_class_tree(folder: Path) -> bool:
    children = visible_folders(folder)
    if {child.name for child in children} & {"train", "test"}:
        return False
    return len(children) >= 2 and all(find_images(child) for child in children)


def _infer_submission(root: Path, sample: Path | None, classes: tuple[str, ...]) -> Submission:
    if sample is None:
        return Submission({"name": "id", "target": "label_index"})
    head = read_table(sample).head(20)
    names = [str(name) for name in head.columns]
    columns = {names[0]: "id"}
    for name in names[1:]:
        if name in classes:
            columns[name] = PROBABILITY + name
        elif head[name].isin(classes).all():
            columns[name] = "label_name"
        else:
            columns[name] = "label_index"
    suffix = bool(head[names[0]].str.contains(r"\.\w+$", regex=True).all())
    return Submission(columns, sample.relative_to(root).as_posix(), suffix)
