"""Find a competition's files: a zip, a folder, the data folder, or drawn on the spot."""

import glob
import hashlib
import inspect
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.errors import UserError, listing
from xraycomp.data import phantom, thorax
from xraycomp.data.archive import unpack
from xraycomp.data.competition import (
    PROBABILITY,
    Competition,
    Labelled,
    Submission,
    built_in_slugs,
    check_competition,
    load_competition,
)
from xraycomp.data.files import atomic_folder, read_table
from xraycomp.data.manifest import find_images, visible_folders

log = logging.getLogger(__name__)

DEFAULT_DRAWN = "phantom"


@dataclass(frozen=True)
class Source:
    """A competition and where its files are."""

    competition: Competition
    root: Path
    """The folder that holds its files (read, never written)."""
    home: Path
    """Its folder in the data folder, where what is unpacked and decoded is kept."""


def choose_competition(name: str | None, data: Path | None, data_dir: Path) -> Competition | None:
    """The competition that is meant, or None if the files at ``data`` must tell.

    With ``name`` (a slug or the path of a TOML file) it is that; else the built-in one whose name
    ``data`` bears; without ``data`` the one whose files lie in ``data_dir``, or else the drawn one.

    Raises ``UserError`` as `load_competition` does, and where ``data_dir`` holds several.
    """
    if name is not None:
        return load_competition(name)
    if data is not None:
        slug = _data_name(data)
        return load_competition(slug) if slug in built_in_slugs() else None
    present = [
        slug for slug in built_in_slugs() if slug != DEFAULT_DRAWN and _candidates(slug, data_dir)
    ]
    if len(present) > 1:
        raise UserError(
            f"{data_dir} holds several competitions ({listing(present)}). "
            "Choose one with --competition."
        )
    return load_competition(present[0] if present else DEFAULT_DRAWN)


def open_source(competition: Competition | None, data: Path | None, data_dir: Path) -> Source:
    """Find the files of a competition, unpacking or drawing them once if need be.

    Without ``data`` (a zip or a folder) they are looked for in ``data_dir``; without a competition
    ``data`` has to be a tree with one folder a class, from which it is inferred.

    Raises ``UserError`` where nothing is found.
    """
    if data is None:
        assert competition is not None  # by choose_competition
        return Source(competition, _find_files(competition, data_dir), data_dir / competition.slug)
    slug = competition.slug if competition else _data_name(data)
    root = _open_data(data, data_dir / slug)
    return Source(competition or infer_competition(root, slug), root, data_dir / slug)


def _data_name(data: Path) -> str:
    """What the competition is called after its files, in the letters that a slug may have."""
    name = data.absolute().name.removesuffix(".zip")
    return re.sub(r"[^A-Za-z0-9_-]", "-", name).lstrip("-_") or "data"


def _candidates(slug: str, data_dir: Path) -> list[Path]:
    """Where the files of a competition may lie in the data folder, best first."""
    folder = data_dir / slug
    zips = [data_dir / f"{slug}.zip", folder / f"{slug}.zip"]
    raw = folder / "raw"
    unpacked = sorted(visible_folders(raw), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path for path in zips if path.is_file()] + ([raw] if unpacked else [])


def has_files(competition: Competition, data_dir: Path) -> bool:
    """Whether the competition's files lie in the data folder."""
    return bool(_candidates(competition.slug, data_dir))


def _find_files(competition: Competition, data_dir: Path) -> Path:
    raw = data_dir / competition.slug / "raw"
    if competition.source == "drawn":
        return _draw(competition, raw)
    found = _candidates(competition.slug, data_dir)
    if not found:
        fetch = "."
        if competition.dataset or competition.source == "competition":
            fetch = (
                ", or make a Kaggle token (python -m xraycomp.download --doctor) and run the same "
                "command again: it downloads what is missing."
            )
        raise UserError(
            f"There is no data of {competition.slug} in {data_dir}. Pass the zip or the extracted "
            f"folder with --data{fetch}"
        )
    if found[0].suffix == ".zip":
        return unpack(found[0], raw)
    first_part = competition.train.images.split("/")[0]
    if any(raw.glob(first_part)):
        return raw
    return max(visible_folders(raw), key=lambda path: path.stat().st_mtime)


def _draw(competition: Competition, raw: Path) -> Path:
    if competition.slug != DEFAULT_DRAWN:
        raise UserError(f"Only {DEFAULT_DRAWN} can be drawn, not {competition.slug}.")
    # Named after the code that draws it: other code draws other films.
    code = inspect.getsource(phantom) + inspect.getsource(thorax)
    root = raw / hashlib.blake2b(code.encode(), digest_size=6).hexdigest()
    if not root.is_dir():
        with atomic_folder(root) as temporary:
            phantom.draw_competition(temporary)
    return root


def _open_data(data: Path, home: Path) -> Path:
    if not data.exists():
        raise UserError(f"There is nothing at {data}. Check the path given with --data.")
    if data.is_dir():
        if not any(data.iterdir()):
            raise UserError(f"The folder {data} is empty. Check the path given with --data.")
        return data
    if data.suffix.lower() != ".zip":
        raise UserError(
            f"{data} is neither a folder nor a .zip file. Unpack it and pass the folder."
        )
    return unpack(data, home / "raw")


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
