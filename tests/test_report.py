"""python -m xraycomp.report: what its pages say, and what it says where something is wrong."""

import dataclasses
import html
import json
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from drawn_run import draw_run

from xraycomp import report
from xraycomp.console.command import parse_flags
from xraycomp.console.help import Help
from xraycomp.data.files import write_csv, write_json
from xraycomp.model.again import train_again
from xraycomp.model.config import TrainConfig
from xraycomp.model.recipes import RECIPES
from xraycomp.model.run import RunFolder
from xraycomp.remote.ledger import COLUMNS, add_rows


def text_of(page: Path) -> str:
    """What a page says, without its tags, style and script."""
    body = (
        page.read_text(encoding="utf-8")
        .partition("<body")[2]
        .partition(">")[2]
        .partition("<script>")[0]
    )
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_a_page_says_what_the_files_say(tmp_path):
    run = draw_run(tmp_path / "a", judged_by_all=True, pictures=6, lr=0.003)
    report.main([str(run)])
    said = text_of(run / "report.html")
    figures = json.loads((run / "metrics.json").read_text())
    for entry in (figures["competition"]["score"], figures["overall"]["macro_auroc"]):
        assert "{value:.3f} {low:.3f}–{high:.3f}".format(**entry) in said
    for figures_of_class in figures["classes"].values():
        assert "{value:.3f} {low:.3f}–{high:.3f}".format(**figures_of_class["auroc"]) in said
    assert "lr 0.003 0.02" in said
    assert "drawn phantoms, not X-rays" in said
    assert "git checkout 0123abcd python -m xraycomp.train" in said
    assert "had changes that were not committed" in said
    assert "between train and val" in said or "within train" in said
    assert "of 120 patients have images on more than one side" in said
    assert "6 epochs in 1.3 minutes" in said
    calibration = figures["calibration"]
    assert f"One temperature, {calibration['temperature']:.3f}, divides" in said
    for when in ("before", "after"):
        assert "{value:.3f} {low:.3f}–{high:.3f}".format(**calibration[when]["brier"]) in said
    assert "Border pixels alone tell the label" in said
    assert "looks outside the body" in said
    assert "This command writes it" not in said


def test_what_a_run_has_no_file_for_is_left_out_in_one_sentence_with_the_command(tmp_path):
    run = draw_run(tmp_path / "a")
    report.main([str(run)])
    said = text_of(run / "report.html")
    for command, times in ((f"python -m xraycomp.evaluate --run {run}", 1),
                           (f"python -m xraycomp.evaluate --doubts {run}", 1),
                           (f"python -m xraycomp.train --resume {run}", 1),
                           (f"python -m xraycomp.explain --run {run}", 1)):  # fmt: skip
        assert said.count(f"This command writes it: {command}") == times
    assert f"and this one puts it here: python -m xraycomp.report {run}" in said
    (run / "predictions" / "val.csv").unlink()
    report.main([str(run)])
    assert f"python -m xraycomp.predict --runs {run} --split val" in text_of(run / "report.html")


def test_a_run_that_is_not_finished_says_how_to_go_on(tmp_path):
    run = draw_run(tmp_path / "a", finished=False)
    report.main([str(run)])
    said = text_of(run / "report.html")
    assert f"Not finished. Go on with: python -m xraycomp.train --resume {run}" in said
    (run / "metrics.csv").unlink()
    report.main([str(run)])
    assert "No epoch has ended yet" in text_of(run / "report.html")


def test_the_command_trains_the_same_again(tmp_path):
    run = draw_run(
        tmp_path / "a", recipe="fast", lr=0.004, flip=False, head=(64, 32), epochs=6,
        stages="head:0.001:2 all:0.0001:3", data="with a space.zip", devices=1,
    )  # fmt: skip
    words = shlex.split(train_again(RunFolder.open(run)))
    assert words[:3] == ["python", "-m", "xraycomp.train"]
    help = Help(examples=("",), first="")
    given = parse_flags(TrainConfig, words[3:], prog="", help=help)
    assert given.recipe == "fast"
    base = TrainConfig.from_recipe({"recipe": "fast", **RECIPES["fast"]}, "fast")
    again = parse_flags(TrainConfig, words[3:], prog="", help=help, default=base)
    assert dataclasses.replace(again, name="a") == RunFolder.open(run).config()
    assert "--epochs" not in words  # the recipe has six


def test_runs_are_compared_on_one_page_that_lies_beside_them(tmp_path):
    for name, strength in (("weak", 1.0), ("strong", 3.0)):
        draw_run(tmp_path / "runs" / name, strength=strength, lr=strength / 100)
    draw_run(tmp_path / "runs" / "cut", finished=False)
    for _ in range(2):  # the second time the page itself is among runs/*
        report.main([str(path) for path in sorted((tmp_path / "runs").iterdir())])
    page = tmp_path / "runs" / "report.html"
    said = text_of(page)
    assert said.startswith("Skip to the content Comparing 3 runs")
    assert said.index("strong") < said.index("weak")  # best first
    assert f"cut 3 python -m xraycomp.train --resume {tmp_path}/runs/cut" in said
    for name in ("weak", "strong"):
        score = json.loads((tmp_path / "runs" / name / "metrics.json").read_text())
        entry = score["competition"]["score"]
        assert "{value:.3f} {low:.3f}–{high:.3f}".format(**entry) in said
        assert f'href="{name}/report.html"' in page.read_text()
        assert (tmp_path / "runs" / name / "report.html").is_file()
    assert "leaderboard" not in said


def test_runs_of_other_competitions_or_images_are_not_mixed(tmp_path):
    draw_run(tmp_path / "one")
    draw_run(tmp_path / "same", seed=3)
    draw_run(tmp_path / "split", split_seed=4)
    draw_run(tmp_path / "other", slug="other-demo")
    names = ("one", "same", "split", "other")
    output = tmp_path / "deep" / "page.html"
    report.main([*(str(tmp_path / name) for name in names), "--output", str(output)])
    source = output.read_text()
    tables = re.findall(r'<table class="sortable figures runs">.*?</table>', source, re.DOTALL)
    found = [re.findall(r'href="\.\./(\w+)/report.html"', table) for table in tables]
    assert sorted(map(sorted, found)) == [["one", "same"], ["other"], ["split"]]
    assert "stand in 3 tables" in text_of(output)


def test_the_ledger_is_shown_where_there_are_scores(tmp_path):
    for name in ("a", "b"):
        draw_run(tmp_path / name, submissions_dir=tmp_path / "sent", seed=ord(name))
    rows = [
        {"competition": "drawn-demo", "run": "a", "metric": "macro_f1", "sha256": "1", "ref": "1",
         "val_score": "0.8", "val_score_low": "0.75", "val_score_high": "0.85",
         "public_score": "0.6", "private_score": "0.61"},
        {"competition": "drawn-demo", "file": "mean.csv", "ref": "2", "public_score": "0.7"},
        {"competition": "drawn-demo", "run": "b", "ref": "3"},
        {"competition": "elsewhere", "run": "c", "ref": "4", "public_score": "0.9"},
    ]  # fmt: skip
    ledger = pd.DataFrame(columns=list(COLUMNS), dtype=str)
    write_csv(tmp_path / "sent" / "ledger.csv", add_rows(ledger, rows))
    report.main([str(tmp_path / "a"), str(tmp_path / "b")])
    said = text_of(tmp_path / "report.html")
    assert "a 0.800 0.750–0.850 0.6 0.61 1 1 outside the interval" in said
    assert "mean.csv n/a 0.7 –" in said
    assert "1 lie outside" in (tmp_path / "report.html").read_text()
    assert "from 3 files with both scores on; there are 1" in said
    assert "elsewhere" not in said


DAMAGES = {
    "config.json": "{",
    "competition.toml": "slug =",
    "manifest.csv": "image\n1\n",
    "metrics.json": '{"classes": {}}',
    "metrics.csv": "epoch,seconds\n1,2\n",
    "predictions/val.csv": "image\nx\n",
    "slices.json": '{"slices": [1]}',
    "shortcuts.json": "[]",
    "label_doubts.csv": "image,label,label_prob,suggested,suggested_prob\nx,a,none,b,1\n",
    "explain/val/maps.csv": "image,class,kind\n",
    "duplicates.csv": "",
    "environment.json": "7",
    "explain/val/localisation.json": '{"classes": {}, "threshold": 0.5}',
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_run(tmp_path_factory.mktemp("drawn") / "a", judged_by_all=True, pictures=1)


@pytest.fixture
def run(drawn, tmp_path):
    """A run of one's own, to be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "runs" / "a"))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_one_sentence_that_names_it(name, run, refused, match):
    (run / name).write_text(DAMAGES[name])
    said = refused(report.main, run)
    match(re.escape(name), said)
    assert not (run / "report.html").exists()


def test_a_damaged_calibration_is_one_sentence(run, refused, match):
    content = json.loads((run / "metrics.json").read_text())
    del content["calibration"]["after"]
    write_json(run / "metrics.json", content)
    match("metrics.json is damaged.*xraycomp.evaluate --run", refused(report.main, run))


def test_a_broken_run_among_others_is_named_and_left_out(tmp_path, caplog):
    whole = draw_run(tmp_path / "whole")
    broken = draw_run(tmp_path / "broken")
    (broken / "metrics.json").write_text("{")
    (tmp_path / "empty").mkdir()
    with caplog.at_level("INFO", "xraycomp"):
        report.main([str(whole), str(broken), str(tmp_path / "empty")])
    said = text_of(tmp_path / "report.html")
    assert f"{broken}/metrics.json is damaged" in said
    assert f"{tmp_path}/empty is not a run folder" in said
    assert caplog.text.count("Left out: ") == 2


def test_what_cannot_be_is_refused(run, tmp_path, refused, match):
    match("No run was named", refused(report.main))
    match("nowhere is no run folder", refused(report.main, "nowhere"))
    match("--output is for comparing", refused(report.main, run, "--output", "x.html"))
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    match("There is no whole run", refused(report.main, tmp_path / "x", tmp_path / "y"))
    assert not (tmp_path / "report.html").exists()
