"""Which findings a multilabel run learns, and what becomes of images without any."""

import dataclasses
import logging

import pandas as pd

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import PROBABILITY, Competition
from xraycomp.data.labels import SEPARATOR, UNKNOWN, encode_targets, is_labelled

log = logging.getLogger(__name__)

NO_FINDING = "No Finding"
"""What the class of images without any finding is called where the competition has no name."""


def choose_findings(
    competition: Competition,
    manifest: pd.DataFrame,
    *,
    no_finding_class: bool = False,
    drop_no_finding: bool = False,
    min_count: int = 0,
) -> tuple[Competition, pd.DataFrame]:
    """The competition and its manifest with the classes and images that are left.

    ``no_finding_class`` makes images without any finding a last class; ``drop_no_finding`` leaves
    them out, labelled test images too; classes with fewer than ``min_count`` labelled images are
    left out, after that. Images whose findings are all left out stay, with none: they are not the
    same as images without any finding.

    Raises ``UserError`` for a competition that is not multilabel, for both options at once, and
    where fewer than two classes are left.
    """
    if not (no_finding_class or drop_no_finding or min_count):
        return competition, manifest
    if not competition.multilabel:
        raise UserError(
            f"{competition.slug} is {competition.task}; --no-finding-class, --drop-no-finding and "
            "--min-count are for multilabel competitions. Leave them out."
        )
    if no_finding_class and drop_no_finding:
        raise UserError(
            "--no-finding-class and --drop-no-finding contradict each other; choose one of them."
        )
    labels = manifest["label"]
    if drop_no_finding:
        log.info("Left out %s images without any finding.", f"{labels.eq('').sum():,}")
        manifest = manifest[labels.ne("")].reset_index(drop=True)
    if no_finding_class:
        name = competition.train.none or NO_FINDING
        if name not in competition.classes:
            classes = (*competition.classes, name)
            competition = dataclasses.replace(competition, classes=classes, normal=name)
        manifest = manifest.assign(label=labels.where(labels.ne(""), name))
    return _drop_rare(competition, manifest, min_count) if min_count else (competition, manifest)


def _drop_rare(
    competition: Competition, manifest: pd.DataFrame, min_count: int
) -> tuple[Competition, pd.DataFrame]:
    labels = manifest["label"]
    targets = encode_targets(labels, competition.classes)
    counts = dict(zip(competition.classes, (targets == 1).sum(axis=0).tolist(), strict=True))
    kept = tuple(name for name, count in counts.items() if count >= min_count)
    rare = [f"{name} ({count:,})" for name, count in counts.items() if count < min_count]
    if len(kept) < 2:
        raise UserError(
            f"--min-count {min_count} leaves {len(kept)} of {len(counts)} classes of "
            f"{competition.slug}, and there must be two; the largest has {max(counts.values()):,} "
            f"of {is_labelled(labels).sum():,} labelled images."
        )
    if not rare:
        return competition, manifest
    log.info("Left out classes with fewer than %s images: %s.", f"{min_count:,}", listing(rare, 20))
    columns = competition.submission.columns.values() if competition.submission else ()
    if needed := [name for name in counts if name not in kept and PROBABILITY + name in columns]:
        raise UserError(
            f"--min-count {min_count} leaves out {listing(needed, 20)}, which a submission to "
            f"{competition.slug} must hold. Leave out the flag, or choose a smaller number."
        )
    changed = {text: _keep(text, set(kept)) for text in labels.unique()}
    # The table that the labels come from names the other classes still.
    others = "ignore" if competition.train.label_column else ""
    competition = dataclasses.replace(
        competition,
        classes=kept,
        normal=competition.normal if competition.normal in kept else "",
        positive=competition.positive if competition.positive in kept else "",
        train=dataclasses.replace(
            competition.train,
            others=others,
            names={name: to for name, to in competition.train.names.items() if to in kept},
        ),
    )
    return competition, manifest.assign(label=labels.map(changed).astype(object))


def _keep(text: str, kept: set[str]) -> str:
    """The label without the classes that are not ``kept``."""
    if text == UNKNOWN:
        return text
    names = [name for name in text.split(SEPARATOR) if name.removeprefix(UNKNOWN) in kept]
    return SEPARATOR.join(names)
