"""The manifest: one table with every image of a competition."""

import logging
import re
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import COLUMNS, Competition
from xraycomp.data.image_ids import IMAGE_SUFFIXES, image_key, rows_by_key
from xraycomp.data.label_table import read_label_table
from xraycomp.data.labels import UNKNOWN

log = logging.getLogger(__name__)


def build_manifest(competition: Competition, root: Path) -> pd.DataFrame:
    """List every training and test image.

    Returns a table with the columns ``image`` (unique id: the path below the images folder,
    without its suffix), ``path`` (relative to ``root``), ``label`` (as `encode_targets` reads it:
    ``?`` for images without a label), ``patient`` (empty where unknown), ``split`` (``train`` or
    ``test``) and those that ``train.columns`` names (text; empty where unknown), training images
    first, each part in natural order (``test_2`` before ``test_10``).

    Raises ``UserError`` for missing or empty folders, a class without a folder or images, a
    folder without a class, labels outside the list, table rows without an image, images that
    carry no patient, and duplicate ids.
    """
    if competition.train.labels == "folders":
        train = _from_folders(competition, root).assign(split="train")
    else:
        train = _from_table(competition, root)
    if competition.patient_pattern:
        train["patient"] = _match_patients(train["path"], competition)
    parts = [train]
    if competition.test:
        files = _image_files(root, competition.test)
        parts.append(_rows(root, files).assign(split="test"))
    for part in parts:
        repeated = part["image"][part["image"].duplicated()]
        if len(repeated):
            raise UserError(
                f"{len(repeated):,} image ids of {competition.slug} stand for more than one file "
                f"({listing(list(repeated))}). Remove the copies."
            )
    manifest = pd.concat(parts, ignore_index=True).fillna("")
    return manifest[[*COLUMNS, *competition.train.columns]]


def visible_folders(folder: Path) -> list[Path]:
    """The subfolders of ``folder`` that are neither hidden nor still being written."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not _is_hidden(path.name) and path.suffix != ".tmp"
    )


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the set's own: ``.ipynb_checkpoints``, ``__MACOSX``."""
    return name.startswith((".", "__MACOSX"))


def find_images(folder: Path) -> list[Path]:
    """All image files (by suffix) at and below ``folder``, in natural order; hidden ones not."""
    if not folder.is_dir():
        return []
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(_is_hidden, path.relative_to(folder).parts))
    ]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if len(images) < len(files):
        others = [path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
        log.info(
            "Ignored %d files in %s that are not images: %s.", len(others), folder, listing(others)
        )
    return sorted(images, key=lambda path: _natural(path.as_posix()))


def _natural(text: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", text)
    ]


def image_folders(root: Path, pattern: str) -> list[Path]:
    """The folders below ``root`` that ``pattern`` names (``.`` is ``root`` itself)."""
    if Path(pattern) == Path():
        return [root]
    return sorted(path for path in root.glob(pattern) if path.is_dir())


def _image_files(root: Path, pattern: str) -> list[tuple[Path, Path]]:
    """(images folder, file) of every image below the folders that ``pattern`` names."""
    folders = image_folders(root, pattern)
    if not folders:
        seen = [path.name for path in visible_folders(root)]
        raise UserError(
            f"There is no folder {pattern} in {root} (folders there: {listing(seen) or 'none'}). "
            "Check --data and the competition's TOML."
        )
    files = [(folder, path) for folder in folders for path in find_images(folder)]
    if not files:
        raise UserError(f"There are no images in {root / pattern}. Check --data.")
    return files


def _rows(root: Path, files: list[tuple[Path, Path]]) -> pd.DataFrame:
    for _, path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"The file name {str(path)!r} is not UTF-8. Rename the file.") from None
    return pd.DataFrame(
        {
            "image": [
                path.relative_to(folder).with_suffix("").as_posix() for folder, path in files
            ],
            "path": [path.relative_to(root).as_posix() for _, path in files],
            "label": UNKNOWN,
            "patient": "",
        },
        dtype=object,
    )


def _from_folders(competition: Competition, root: Path) -> pd.DataFrame:
    files = _image_files(root, competition.train.images)
    folders = {
        child.name
        for parent in image_folders(root, competition.train.images)
        for child in visible_folders(parent)
    }
    if unknown := sorted(folders - set(competition.classes)):
        raise UserError(
            f"{root / competition.train.images} holds folders that are no class of "
            f"{competition.slug}: {listing(unknown)}. Classes: {listing(competition.classes, 20)}."
        )
    rows = _rows(root, files)
    rows["label"] = [path.relative_to(folder).parts[0] for folder, path in files]
    loose = rows["path"][~rows["label"].isin(competition.classes)]
    if len(loose):
        raise UserError(
            f"{len(loose):,} images lie beside the class folders and have no label: "
            f"{listing(list(loose))}."
        )
    if empty := [name for name in competition.classes if name not in set(rows["label"])]:
        missing = [name for name in empty if name not in folders]
        what = f"no folder for {listing(missing)}" if missing else f"no images of {listing(empty)}"
        raise UserError(
            f"{root / competition.train.images} has {what}, a class of {competition.slug}."
        )
    return rows


def _from_table(competition: Competition, root: Path) -> pd.DataFrame:
    train = competition.train
    table, n_rows = read_label_table(competition, root)
    rows = _rows(root, _image_files(root, train.images))
    positions = _find_rows(table["name"], rows, f"{root / train.labels}", root / train.images)
    if len(rows) > n_rows:
        log.info(
            "%s images have no row in %s and are left out.",
            f"{len(rows) - n_rows:,}",
            root / train.labels,
        )
    labelled = rows.iloc[positions].reset_index(drop=True)
    return labelled.assign(**table.drop(columns="name"))


def _find_rows(names: pd.Series, rows: pd.DataFrame, table: str, folder: Path) -> list[int]:
    """The row of each image that the table names by its path or its name, suffixed or not."""
    by_key = rows_by_key(rows["image"])
    found = {name: by_key.get(image_key(name), set()) for name in names}
    if lost := [name for name, fitting in found.items() if not fitting]:
        raise UserError(
            f"{len(lost):,} images of {table} have no file in {folder}: {listing(lost)}."
        )
    if several := [name for name, fitting in found.items() if len(fitting) > 1]:
        raise UserError(
            f"{len(several):,} images of {table} fit more than one file in {folder}: "
            f"{listing(several)}. Name them by their path below that folder."
        )
    return [min(found[name]) for name in names]


def _match_patients(paths: pd.Series, competition: Competition) -> list[str]:
    pattern = re.compile(competition.patient_pattern)
    matches = [pattern.search(Path(path).name) for path in paths]
    if lost := [path for path, match in zip(paths, matches, strict=True) if match is None]:
        raise UserError(
            f"patient.pattern of {competition.slug} finds no patient in {len(lost):,} file names: "
            f"{listing(lost)}."
        )
    return [match.group(1) for match in matches if match is not None]


def list_folder(path: Path) -> pd.DataFrame:
    """A manifest of any folder of images, or of one image, all in the split ``predict``.

    Raises ``UserError`` where there is no image.
    """
    files = [path] if path.is_file() else find_images(path)
    if not files:
        raise UserError(f"There are no images at {path}. Check the path given with --images.")
    folder = path.parent if path.is_file() else path
    rows = _rows(folder, [(folder, file) for file in files])
    return rows.assign(split="predict")[[*COLUMNS]]
