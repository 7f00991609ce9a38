"""Find a competition's files: a zip, a folder, the data folder, or drawn on the spot."""

import hashlib
import inspect
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.errors import UserError, listing
from xraycomp.data import phantom, thorax
from xraycomp.data.archive import unpack
from xraycomp.data.competition import Competition
from xraycomp.data.competition_file import built_in_slugs, load_competition
from xraycomp.data.files import atomic_folder
from xraycomp.data.inferred import infer_competition
from xraycomp.data.manifest import visible_folders

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
    return [path for path in zips if path.is_file()] + ([raw] if visible_folders(raw) else [])


def has_files(competition: Competition, data_dir: Path) -> bool:
    """Whether the competition's files lie in the data folder."""
    return bool(_candidates(competition.slug, data_dir))


def _find_files(competition: Competition, data_dir: Path) -> Path:
    raw = data_dir / competition.slug / "raw"
    if competition.drawn:
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
