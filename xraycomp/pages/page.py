"""``report.html``: one run on one page that opens anywhere, from the run folder's files alone."""

import base64
import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import xraycomp
from xraycomp.data.files import write_text
from xraycomp.data.labels import SEPARATOR, UNKNOWN
from xraycomp.judging.explanation import OUTSIDE
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.pages import gallery, sections
from xraycomp.pages.judgement import judgements
from xraycomp.pages.pictures import Pictures
from xraycomp.pages.run_files import DOUBT, EVALUATE, EXPLAIN, REPORT, RESUME, Entry, RunFiles

PAGE = "report.html"
_SPLITS = {"val": "validation", "test": "test"}
_TEMPLATES = Path(__file__).parent / "templates"


def write_page(folder: Path, defaults: Mapping[str, Any], again: str) -> Path:
    """Write a run's ``report.html`` and return its path.

    It is one file of less than 5 MB that needs no network; what the run has no file for is left
    out, with the command that would write it.

    Parameters
    ----------
    folder : the run folder, whose files are all that is read
    defaults : the training settings without any recipe, as JSON values, by name
    again : the command that trains this run again

    Raises ``UserError`` where the folder is no run or one of its files is damaged.
    """
    path = folder / PAGE
    write_text(path, _run_page(RunFiles.read(folder), defaults, again))
    return path


def _run_page(run: RunFiles, defaults: Mapping[str, Any], again: str) -> str:
    pictures = Pictures()
    rows = sections.settings(run.config, defaults)
    judged = judgements(run)
    for one in judged:
        one["floor"] = reaches(one["rows"], 0)
    slices = list(filter(None, (sections.slices(run, folder) for folder in ("", "test/"))))
    for part in slices:
        part["floor"] = reaches(part["rows"], 0)
    environment = sections.environment(run)
    commit = dict(environment).get("commit", "").removesuffix("–")
    films = gallery.gallery(run, pictures)
    doubts = gallery.doubts(run, pictures)
    if doubts:
        doubts["films"] = any(row["film"] for row in doubts["rows"])
    soup = run.json("soup.json")
    titles = {
        "what": "What was run",
        **({f"judged-{j['split']}": f"Judged on {_SPLITS[j['split']]}" for j in judged}),
        **({} if judged else {"judged": "Judgement"}),
        "training": "Soup" if soup else "Training",
        "leaks": "Leak check",
        "slices": "Slices",
        "shortcuts": "Shortcuts",
        "doubts": "Label doubts",
        "pictures": "What the model looks at",
        "again": "Do it again",
    }
    return render(
        "run.html.jinja",
        run=run,
        sections=list(titles.items()),
        names=_SPLITS,
        phantoms=PHANTOMS,
        changed=[row for row in rows if row[1] != row[2]],
        unchanged=[row for row in rows if row[1] == row[2]],
        split_described=run.describe_split("val"),
        counts=sections.counts(run),
        environment=environment,
        judged=judged,
        training=sections.training(run),
        soup=soup,
        leaks=sections.leaks(run),
        shown=sections.SHOWN,
        slices=slices,
        shortcuts=sections.shortcuts(run),
        doubts=doubts,
        gallery=films,
        pictures=pictures,
        outside_limit=OUTSIDE,
        locations=gallery.locations(run),
        evaluate=run.command(EVALUATE),
        explain=run.command(EXPLAIN),
        doubt=run.command(DOUBT),
        resume=run.command(RESUME),
        rebuild=run.command(REPORT),
        commit=commit.removesuffix("-dirty"),
        dirty=commit.endswith("-dirty"),
        again=again,
    )


def reaches(rows: Sequence[dict[str, Any]], figure: int) -> float:
    """Give each row the place of one of its figures between a common floor and 1, in per cent, as
    ``reach``; return the floor."""
    found: list[Entry] = [row["figures"][figure] for row in rows if row["figures"][figure]]
    lows = [f["low"] if f["low"] is not None else f["value"] for f in found]
    lowest = min((low for low in lows if low is not None), default=0.0)
    floor = min(int(max(lowest, 0) * 10) / 10, 0.9)
    for row in rows:
        f = row["figures"][figure]
        known = f is not None and f["value"] is not None
        row["reach"] = known and {
            key: None if place is None else round(100 * (place - floor) / (1 - floor), 1)
            for key, place in f.items()
        }
    return floor


def render(template: str, **values: Any) -> str:
    """A page made of a template, which says itself what it may load: nothing."""
    templates = _templates()
    # Markup: these two are the kit's own, and escaping would change them.
    style = Markup(templates.get_template("style.css.jinja").render())
    script = Markup(templates.get_template("sort.js.jinja").render())
    return templates.get_template(template).render(
        style=style,
        style_hash=_source_hash(style),
        script=script,
        script_hash=_source_hash(script),
        version=xraycomp.__version__,
        now=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **values,
    )


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": _number, "short": _short, "label": _label}
    return templates


def _number(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None or value != value else f"{value:.{digits}f}"


def _short(value: float) -> str:
    return "n/a" if value != value else f"{value:.4g}"


def _label(text: str) -> str:
    """A label of the manifest in words."""
    if text == UNKNOWN:
        return "not labelled"
    return text.replace(SEPARATOR, ", ") or "none of the findings"


def _source_hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline style or script of that text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
