"""Where Kaggle puts what is attached to a kernel: two layouts, both in use."""

import os
from collections.abc import Iterator
from pathlib import Path

from xraycomp.console.errors import UserError, listing

LAYOUTS = ("new", "old")
_SHOWN = 40


def mount_path(kind: str, source: str, layout: str) -> str:
    """Where below ``input`` a source of ``kind`` (as in ``competition_sources``) lies.

    Model sources lie at the same parts in both layouts, below ``models`` in the new one.
    """
    parts = source.split("/")
    if kind == "competition":
        return f"competitions/{source}" if layout == "new" else source
    if kind == "dataset":
        return f"datasets/{parts[0]}/{parts[1]}" if layout == "new" else parts[1]
    if kind == "kernel":
        return f"notebooks/{parts[0]}/{parts[1]}" if layout == "new" else parts[1]
    return f"models/{source}" if layout == "new" else "/".join(parts[1:])


def find_data(root: Path, source: str) -> Path:
    """The folder below ``root`` (``/kaggle/input``) with a competition (``slug``) or data set.

    A data set is ``owner/slug``, or its slug alone.

    Raises ``UserError``, with what lies there, if it is not attached or ambiguous.
    """
    found = _places(root, source)
    if not found:
        rules = f", and accept the rules at https://www.kaggle.com/c/{source}/rules"
        kind = "dataset" if "/" in source else "competition"
        raise UserError(
            f"No data of {source} is attached: {root} holds {describe_tree(root)}. Name it in "
            f"{kind}_sources of kernel-metadata.json{'' if '/' in source else rules}."
        )
    if len(found) > 1:
        raise UserError(
            f"{source} is attached more than once: {listing([str(path) for path in found])}. "
            "Leave one of them in kernel-metadata.json."
        )
    return found[0]


def is_attached(root: Path, source: str) -> bool:
    """Whether a competition or data set lies below ``root``; ``source`` as in ``find_data``."""
    return bool(_places(root, source))


def _places(root: Path, source: str) -> list[Path]:
    if "/" in source:
        places = [root / "datasets" / source, root / source.split("/")[1]]
    else:
        sets = sorted(root.glob(f"datasets/*/{source}"))
        places = [root / "competitions" / source, *sets, root / source]
    return [place for place in places if place.is_dir()]


def find_file(root: Path, name: str, skip: Path | None = None) -> Path:
    """The one file called ``name`` anywhere below ``root``; ``skip`` is not searched.

    Raises ``UserError`` where there is none or several.
    """
    found = [path for path in _walk(root, skip) if path.name == name and path.is_file()]
    if not found:
        raise UserError(
            f"No file {name} is attached: {root} holds {describe_tree(root)}. Put it into a Kaggle "
            "dataset and name that in dataset_sources of kernel-metadata.json."
        )
    if len(found) > 1:
        raise UserError(
            f"{len(found)} attached files are called {name}: "
            f"{listing([str(path) for path in found])}. Give one of these paths."
        )
    return found[0]


def find_run(root: Path, name: str, skip: Path | None = None) -> Path | None:
    """The folder ``runs/<name>`` with a checkpoint below ``root``: an attached kernel's output.

    Of a run of all folds, one of these has it.

    Raises ``UserError`` where there are several.
    """
    checkpoints = [path for path in _walk(root, skip) if path.name == "checkpoint.pt"]
    around = [folder for path in checkpoints for folder in list(path.parents)[:2]]
    found = sorted({folder for folder in around if folder.parts[-2:] == ("runs", name)})
    if len(found) > 1:
        raise UserError(
            f"{len(found)} attached outputs hold a run {name}: "
            f"{listing([str(path) for path in found])}. Leave one of them in kernel_sources."
        )
    return found[0] if found else None


def find_studies(root: Path, name: str, skip: Path | None = None) -> list[Path]:
    """The folders ``runs/<name>`` with a study's journal below ``root``: attached kernels' output.

    Several are kernels that worked on the study beside each other.
    """
    journals = [path for path in _walk(root, skip) if path.name == "journal.log"]
    return [path.parent for path in journals if path.parent.parts[-2:] == ("runs", name)]


def _walk(root: Path, skip: Path | None) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        # The competition's own images are many, and neither weights nor runs.
        folders[:] = sorted(name for name in folders if Path(folder, name) != skip)
        yield from (Path(folder, name) for name in sorted(files))


def describe_tree(root: Path, depth: int = 4) -> str:
    """The folders below ``root`` in one line, with the numbers of files; cut where it is long."""
    lines = []
    for folder, folders, files in os.walk(root):
        parts = Path(folder).relative_to(root).parts
        folders.sort()
        if len(parts) >= depth:
            folders.clear()
        if parts and (files or not folders):
            names = listing(sorted(files), 3) if len(files) <= 3 else f"{len(files):,} files"
            lines.append(f"{'/'.join(parts)}/ ({names or 'empty'})")
        if len(lines) > _SHOWN:
            break
    return listing(lines, _SHOWN) if lines else "nothing"
