"""What a table may call an image: with its folders and file suffix, or without."""

from collections.abc import Iterable

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def image_key(name: str, *, folders: bool = True) -> str:
    """An image's name without the suffixes of image files, and without folders on request.

    >>> image_key("view_1.2.dcm.png")
    'view_1.2'
    """
    key = name.strip().replace("\\", "/")
    stem, dot, suffix = key.rpartition(".")
    while dot and f".{suffix.lower()}" in IMAGE_SUFFIXES | {".dcm", ".dicom"}:
        key = stem
        stem, dot, suffix = key.rpartition(".")
    return key if folders else key.rpartition("/")[2]


def rows_by_key(images: Iterable[str]) -> dict[str, set[int]]:
    """The keys of each image, with its folders and without -> its rows."""
    found: dict[str, set[int]] = {}
    for row, image in enumerate(images):
        for folders in (True, False):
            found.setdefault(image_key(image, folders=folders), set()).add(row)
    return found
