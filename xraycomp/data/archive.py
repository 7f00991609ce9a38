"""Unpack a competition's zip once, safely, and find it again by its contents."""

import hashlib
import logging
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from xraycomp.console.errors import UserError
from xraycomp.data.files import atomic_folder

log = logging.getLogger(__name__)

MAX_UNPACKED_BYTES = 200 * 1024**3
"""The most that an archive may unpack to: four times the largest chest X-ray set on Kaggle."""


def unpack(archive: Path, destination: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> Path:
    """Unpack ``archive`` below ``destination`` and return the folder with its files.

    The folder is named after a digest of the archive's directory (names, sizes, checksums), so a
    second call with the same archive returns at once and a changed archive gets a new folder.

    Raises ``UserError`` for a damaged zip, for a member with an absolute path, ``..`` or a link,
    for more than ``max_bytes`` unpacked, and where the disk cannot hold it.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = source.infolist()
            folder = destination / _digest(members)
            if folder.is_dir():
                return folder
            _check(archive, members, max_bytes)
            total = sum(member.file_size for member in members)
            destination.mkdir(parents=True, exist_ok=True)
            _check_space(archive, destination, total)
            with (
                atomic_folder(folder) as temporary,
                tqdm(total=total, unit="B", unit_scale=True, desc=f"Unpack {archive.name}") as bar,
            ):
                for member in members:
                    source.extract(member, temporary)
                    bar.update(member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        # RuntimeError is what zipfile raises for a password and for compression it does not know.
        raise UserError(
            f"{archive} is not a whole, plain zip file ({error}). Download it again."
        ) from error
    log.info("Unpacked %s into %s.", archive, folder)
    return folder


def _digest(members: list[zipfile.ZipInfo]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for member in members:
        digest.update(f"{member.filename}\0{member.file_size}\0{member.CRC}\n".encode())
    return digest.hexdigest()


def _check(archive: Path, members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    for member in members:
        # zipfile would quietly rename such members; a set that has them is not to be trusted.
        name = member.orig_filename.replace("\\", "/")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
            raise UserError(
                f"{archive} holds the unsafe path {member.orig_filename!r}; nothing was unpacked. "
                "Download it again from its source."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(
                f"{archive} holds the link {member.filename!r}; nothing was unpacked. "
                "Download it again from its source."
            )
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        raise UserError(
            f"{archive} would unpack to {total / 1e9:,.1f} GB, above the limit of "
            f"{max_bytes / 1e9:,.1f} GB; unpack it yourself and pass the folder with --data."
        )


def _check_space(archive: Path, destination: Path, total: int) -> None:
    free = shutil.disk_usage(destination).free
    if total > free:
        raise UserError(
            f"{archive} unpacks to {total / 1e9:,.1f} GB but {destination} has {free / 1e9:,.1f} "
            "GB free. Free some space or choose another folder with --data-dir."
        )
