"""A competition's or data set's files: listed, downloaded, and checked against the list."""

import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from xraycomp.console.errors import UserError, listing
from xraycomp.remote.client import Kaggle
from xraycomp.remote.failures import Subject
from xraycomp.remote.transfer import byte_bar, download_file

log = logging.getLogger(__name__)

_PAGE = 200


def download(kaggle: Kaggle, name: str, path: Path) -> None:
    """Bring a competition (``slug``) or data set (``owner/slug``) to ``path``, a zip.

    A zip that is there already is kept only if it is whole: every listed file is in it with the
    listed size, and every checksum holds. Else it is downloaded again, and checked in the same
    way.

    Raises ``UserError`` where Kaggle refuses, and where what came does not pass the check; then it
    is kept as ``<slug>.zip.rejected``.
    """
    subject = _subject("download", name)
    listed = list_files(kaggle, name)
    if not listed:
        raise UserError(f"The {subject.kind} {name} has no files on Kaggle.")
    log.info("%s: %s files, %s.", name, f"{len(listed):,}", _size(sum(listed.values())))
    if path.is_file():
        problem = check_zip(path, listed)
        if not problem:
            log.info("%s is here already and whole.", path)
            return
        log.info("%s is here but %s: downloading it again.", path, problem)
    download_file(lambda: _signed_url(kaggle, name), path, subject)
    if problem := check_zip(path, listed):
        rejected = path.with_name(path.name + ".rejected")
        path.replace(rejected)
        raise UserError(
            f"What came for {name} {problem}. It is kept as {rejected}; run the same command "
            "again, or rename it to .zip and pass it with --data if you trust it."
        )
    log.info("Wrote %s (%s), every file and checksum in order.", path, _size(path.stat().st_size))


def list_files(kaggle: Kaggle, name: str) -> dict[str, int]:
    """The files of a competition or data set: path to size in bytes; all pages.

    Raises ``UserError`` where Kaggle refuses.
    """
    subject = _subject("list the files of", name)
    method = kaggle.competitions.list_data_files
    if subject.kind == "data set":
        method = kaggle.datasets.list_dataset_files
    files: dict[str, int] = {}
    for page in kaggle.pages(method, subject, page_size=_PAGE, **naming(name)):
        listed = page.dataset_files if subject.kind == "data set" else page.files
        files |= {item.name: item.total_bytes for item in listed or []}
    return files


def check_zip(path: Path, listed: dict[str, int]) -> str:
    """What is wrong with a zip, as a clause ("lacks 3 listed files: …"); empty if nothing is.

    ``listed`` is as ``list_files`` gives it. Every member is read, so every checksum is tested.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {item.filename: item for item in archive.infolist() if not item.is_dir()}
            if missing := sorted(set(listed) - set(members)):
                return f"lacks {len(missing):,} of the listed files: {listing(missing)}"
            other = [file for file, size in listed.items() if members[file].file_size != size]
            if other:
                return f"holds files of another size than listed: {listing(other)}"
            total = sum(item.file_size for item in members.values())
            with byte_bar(f"Check {path.name}", total) as bar:
                for item in members.values():
                    with archive.open(item) as file:
                        while chunk := file.read(1 << 20):
                            bar.update(len(chunk))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        return f"is not a whole zip file ({error})"
    return ""


def _signed_url(kaggle: Kaggle, name: str) -> str:
    """A link to the zip, good for some minutes."""
    subject = _subject("download", name)
    method = kaggle.competitions.download_data_files
    if subject.kind == "data set":
        method = kaggle.datasets.download_dataset
    # The SDK follows the redirect and gives the opened answer: only its address is wanted here.
    with kaggle.call(method, subject, **naming(name)) as answer:
        return str(answer.url)


def naming(name: str) -> dict[str, Any]:
    """How the SDK's requests name the competition ``slug`` or the data set ``owner/slug``."""
    if "/" not in name:
        return {"competition_name": name}
    owner, slug = name.split("/")
    return {"owner_slug": owner, "dataset_slug": slug}


def _subject(action: str, name: str) -> Subject:
    kind: Literal["competition", "data set"] = "data set" if "/" in name else "competition"
    return Subject(f"{action} the {kind} {name}", kind, name)


def _size(n_bytes: int) -> str:
    return tqdm.format_sizeof(n_bytes, "B", 1000)
