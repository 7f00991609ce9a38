"""The images that a run's network is to look at: a split of its own, or any folder."""

from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.errors import UserError, listing
from xraycomp.data.dataset import Dataset, load_dataset
from xraycomp.data.manifest import list_folder
from xraycomp.data.source import Source, open_source
from xraycomp.model.run import RunFolder


@dataclass(frozen=True)
class Images:
    """Decoded images, where they lie, and which of them are meant."""

    source: Source
    dataset: Dataset
    split: str


def open_images(
    run: RunFolder,
    split: str,
    folder: Path | None,
    scratch: Path,
    *,
    data: Path | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
) -> Images:
    """The images of a run's ``split``, or those in ``folder`` (or that one image), decoded as the
    run had them.

    ``scratch`` holds what is decoded of a folder; ``data`` is where the run's own data lies now, if
    it is elsewhere; ``workers`` and ``skip_broken`` are as in `load_dataset`.

    Raises ``UserError`` for a split that the run has not, and where no image is found or decodes.
    """
    config, competition = run.config(), run.competition()
    if folder:
        source = Source(competition, folder.parent if folder.is_file() else folder, scratch)
        manifest, split = list_folder(folder), "predict"
    else:
        source = open_source(competition, data or config.data, config.data_dir)
        manifest = run.manifest()
        if split not in set(manifest["split"]):
            raise UserError(
                f"{run.path} has no split {split!r}. "
                f"It has: {listing(sorted(set(manifest['split'])))}."
            )
    dataset = load_dataset(
        manifest, source, config.cache_size, workers=workers, skip_broken=skip_broken
    )
    if not dataset.ids(split):
        raise UserError(
            f"None of the images at {source.root} decodes, so there is nothing to predict."
        )
    return Images(source, dataset, split)
