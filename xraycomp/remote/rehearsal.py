"""Runs the exact file that would be sent, offline, in a process as poor as a Kaggle session."""

import json
import logging
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import Competition
from xraycomp.data.competition_file import built_in_slugs, load_competition, parse_competition
from xraycomp.data.slice import cut_slice
from xraycomp.data.source import DEFAULT_DRAWN, has_files, open_source
from xraycomp.data.stand_ins import draw_slice
from xraycomp.data.submission import check_submission, expected_ids
from xraycomp.pages.study import STUDY
from xraycomp.remote.bundle import Bundle
from xraycomp.remote.metadata import unversioned
from xraycomp.remote.mounts import LAYOUTS, mount_path
from xraycomp.remote.sandbox import Mount, listing_of, make_tree, run_offline

log = logging.getLogger(__name__)

TRAIN_IMAGES = 160
TEST_IMAGES = 24
_OUTPUTS = {"ensembles", "kernel.json", "runs", "submission.csv", "submissions"}
_RUN_FILES = ("metrics.json", "checkpoint.pt", "best.pt")

_TRIAL_FILES = ("metrics.json", "best.pt")


class _ComplaintError(Exception):
    """What a run that ended well did wrong; continues "it ran to its end but …"."""


def rehearse(
    bundle: Bundle,
    *,
    data: Path | None = None,
    data_dir: Path = Path("data"),
    attach: Mapping[str, Path] | None = None,
    train_images: int = TRAIN_IMAGES,
    timeout: float = 900.0,
) -> None:
    """Run the built file once under each layout of mounts.

    A run sees a tree as Kaggle's, with the attached sources read-only, an empty home, no network
    but this machine's own, none of the packages that a kernel must do without, and no xraycomp
    but the bundled one. It trains for one epoch on a slice of the competition.

    Parameters
    ----------
    data : the competition's zip or folder; without it what lies in ``data_dir``, else stand-ins
        are drawn
    attach : local folder or file for other sources in kernel-metadata.json, by their name there
    train_images : about how many training images the slice has
    timeout : seconds that one run may take

    Raises ``UserError`` with the last lines of the output for a run that fails, and for one that
    does not leave what it should or writes where it should not.
    """
    slug = bundle.metadata.slug
    if bundle.metadata.enable_internet:
        log.info("The rehearsal has no internet although the kernel will have it.")
    with tempfile.TemporaryDirectory(prefix="xraycomp-rehearsal-") as name:
        temporary = Path(name).resolve()
        slices = temporary / "slice"
        mounts, images = _prepare(bundle, data, data_dir, attach or {}, slices, train_images)
        layouts = LAYOUTS if bundle.metadata.sources else LAYOUTS[:1]
        if len(layouts) == 1:
            log.info("Nothing is attached to %s: one layout of mounts is enough.", slug)
        for layout in layouts:
            log.info("Rehearsing %s (%s layout of mounts) ...", slug, layout)
            began = time.monotonic()
            root = make_tree(temporary / layout, layout, mounts)
            before = listing_of(root / "input")
            where = f"{slug} ({layout} layout)"
            output = run_offline(bundle.path, root, images, timeout, where)
            try:
                checked = _check(bundle, root, layout, mounts, before)
            except _ComplaintError as complaint:
                raise UserError(
                    f"The rehearsal of {where} ran to its end but {complaint}. Its last lines:\n"
                    f"{output}"
                ) from complaint
            seconds = time.monotonic() - began
            log.info("Passed in %.0f s: %s.", seconds, ", ".join(checked))


def _slug(source: str) -> str:
    """The name of ``slug``, ``owner/slug`` or ``owner/slug/version``."""
    return source.split("/")[1] if "/" in source else source


def _prepare(
    bundle: Bundle,
    data: Path | None,
    data_dir: Path,
    attach: Mapping[str, Path],
    slices: Path,
    train_images: int,
) -> tuple[list[Mount], int]:
    """What to attach, and how many training images the competition's slice has."""
    sources, folder = bundle.metadata.sources, bundle.path.parent
    if unknown := sorted(attach.keys() - {source for _, source in sources}):
        slug = bundle.metadata.slug
        raise UserError(f"{listing(unknown)} is not among the sources of {slug}.")
    competitions = _described_competitions(folder)
    mounts, images = [], 0
    for kind, source in sources or [("competition", DEFAULT_DRAWN)]:
        slug = _slug(source)
        described = competitions.get(unversioned(source)) or competitions.get(slug)
        if source in attach:
            if not attach[source].exists():
                raise UserError(f"There is nothing at {attach[source]} to attach as {source}.")
            mounts.append(Mount(kind, source, attach[source]))
        elif kind in ("competition", "dataset") and described:
            images = _take_slice(described, data, data_dir, slices / slug, train_images)
            mounts.append(Mount(kind, source, slices / slug))
        elif kind == "competition":
            raise UserError(
                f"Nothing describes the competition {slug}. Put its TOML file into {folder}, or "
                "attach data with --attach."
            )
        else:
            log.info("%s is attached as an empty folder; give it with --attach.", source)
            mounts.append(Mount(kind, source, None))
    return mounts, images or train_images


def _described_competitions(folder: Path) -> dict[str, str]:
    """What a kernel's sources call it -> what ``load_competition`` takes.

    Of the built-in competitions, and those whose TOML file lies in the kernel's ``folder``.
    """
    # A search's space has no slug.
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.toml"))}
    own = [str(path) for path, text in texts.items() if re.search(r"(?m)^\s*slug\s*=", text)]
    names = [*built_in_slugs(), *own]
    return {load_competition(name).attached_as: name for name in names}


def _take_slice(
    name: str, data: Path | None, data_dir: Path, destination: Path, n_train: int
) -> int:
    competition = load_competition(name)
    if data or (has_files(competition, data_dir) and not competition.drawn):
        source = open_source(competition, data, data_dir)
        n_images = cut_slice(competition, source.root, destination, n_train, TEST_IMAGES)
        log.info("Using %d training images of %s.", n_images, source.root)
        return n_images
    n_images = draw_slice(competition, destination, n_train, TEST_IMAGES)
    log.info("No data of %s: drew %d stand-in images (phantoms).", competition.slug, n_images)
    return n_images


def _check(
    bundle: Bundle,
    root: Path,
    layout: str,
    mounts: list[Mount],
    before: dict[str, tuple[int, int]],
) -> list[str]:
    """Look at what a run left behind; return what was found in order.

    Raises ``_ComplaintError`` for anything else.
    """
    working = root / "working"
    changed = [key for key, _ in before.items() ^ listing_of(root / "input").items()]
    if changed:
        raise _ComplaintError(f"wrote into the read-only input: {listing(sorted(set(changed)))}")
    if stray := sorted({path.name for path in working.iterdir()} - _OUTPUTS):
        raise _ComplaintError(
            f"left {listing(stray)} in the working folder, which would be kept as output"
        )
    # Libraries keep hidden caches there; anything else is ours.
    homeless = [p.name for p in (root.parent / "home").iterdir() if not p.name.startswith(".")]
    if homeless:
        raise _ComplaintError(f"wrote into the home folder: {listing(sorted(homeless))}")
    try:
        facts = json.loads((working / "kernel.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _ComplaintError("left no readable kernel.json") from error
    if (facts.get("kernel"), facts.get("sha256")) != (bundle.metadata.slug, bundle.sha256):
        raise _ComplaintError(f"kernel.json does not name the bundle {bundle.sha256}")
    if studies := sorted(path.parent for path in working.glob(f"runs/*/{STUDY}")):
        for study in studies:
            _check_study(study)
        return ["kernel.json", STUDY, "input untouched"]
    runs = sorted(path.parent for path in working.glob("runs/*/config.json"))
    if not runs:
        raise _ComplaintError("left no run folder")
    for run in runs:
        folders = [run, *run.glob("*-fold*")]  # of all folds, these have the weights
        there = {path.name for folder in folders for path in folder.iterdir()}
        if missing := [name for name in _RUN_FILES if name not in there]:
            raise _ComplaintError(f"left no {listing(missing)} in {run.name}")
    checked = ["kernel.json", *_RUN_FILES, "input untouched"]
    competition = parse_competition(
        (runs[0] / "competition.toml").read_text(encoding="utf-8"), "competition.toml"
    )
    if competition.submission:
        ids = _expected_ids(competition, root, layout, mounts)
        if not (working / "submission.csv").is_file():
            raise _ComplaintError("left no submission.csv")
        try:
            check_submission(working / "submission.csv", competition, ids, called="submission.csv")
        except UserError as error:
            raise _ComplaintError(f"its submission would be refused: {error}") from error
        checked.insert(0, f"submission.csv of {len(ids)} rows")
    return checked


def _check_study(study: Path) -> None:
    """Raise ``_ComplaintError`` where no trial is complete, or one that is has no run."""
    trials = json.loads((study / STUDY).read_text(encoding="utf-8"))["trials"]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    if not complete:
        reasons = [trial["reason"] for trial in trials if trial["reason"]]
        raise _ComplaintError(f"has no complete trial in {study.name} ({listing(reasons)})")
    for trial in complete:
        run = study / trial["run"]
        if missing := [name for name in _TRIAL_FILES if not (run / name).is_file()]:
            raise _ComplaintError(f"left no {listing(missing)} in {study.name}/{trial['run']}")


def _expected_ids(
    competition: Competition, root: Path, layout: str, mounts: list[Mount]
) -> list[str]:
    for mount in mounts:
        if competition.attached_as in (unversioned(mount.source), _slug(mount.source)):
            place = root / "input" / mount_path(mount.kind, mount.source, layout)
            return expected_ids(competition, place)
    raise _ComplaintError(
        f"it was on {competition.slug}, which kernel-metadata.json does not attach"
    )
