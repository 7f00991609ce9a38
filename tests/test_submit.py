"""The submit command as a user runs it: a trained run, the stand-in for Kaggle, the ledger."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kaggle_server import KEY, Kernel, KernelVersion, Submission
from PIL import Image

from xraycomp import ensemble, submit, train
from xraycomp.console.command import run_command
from xraycomp.console.errors import UserError
from xraycomp.remote import sending
from xraycomp.remote.drafts import LocalFile
from xraycomp.remote.ledger import append, read_ledger

SLUG = "xray-demo"
TOML = """
slug = "xray-demo"
source = "competition"
task = "multiclass"
classes = ["covid", "pneumonia", "normal"]
normal = "normal"
metric = "macro_f1"

[train]
images = "train"
labels = "folders"

[test]
images = "test"

[submission.columns]
name = "id"
target = "label_index"
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a competition of twelve noise films and the trained run ``runs/A``."""
    desk = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    names = [f"train/{name}/{n}" for name in ("covid", "pneumonia", "normal") for n in range(10)]
    for name in [*names, "test/test_0", "test/test_1", "test/test_2"]:
        path = desk / "films" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(path)
    (desk / "own.toml").write_text(TOML)
    flags = "--competition own.toml --data films --name A --epochs 1 --image-size 32 --device cpu"
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(desk)
    torch.set_num_threads(1)
    try:
        train.main([*flags.split(), "--val-fraction", "0.3", "--batch-size", "8"])
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return desk


@pytest.fixture
def desk(trained, kaggle, tmp_path, monkeypatch):
    """A copy of the trained folder as the current one; this process sees the stand-in only."""
    desk = shutil.copytree(trained, tmp_path / "desk")
    for name in [name for name in os.environ if "KAGGLE" in name]:
        monkeypatch.delenv(name)
    for name, value in kaggle.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sending, "_LOOKS", (0.0, 0.1))
    monkeypatch.chdir(desk)
    shutil.rmtree("submissions")
    kaggle.solutions[SLUG] = lambda data: (0.75, 0.5)
    return desk


@pytest.fixture
def run(desk, monkeypatch, capsys, one_sentence):
    """Run the command within this process; return its exit code and what it said."""
    import logging

    def _run(*flags):
        logger = logging.getLogger("xraycomp")
        handlers, logger.handlers[:] = list(logger.handlers), []
        monkeypatch.setattr(sys, "argv", ["submit", *map(str, flags)])
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as stop:
                run_command(submit.main)
        finally:
            logger.handlers[:] = handlers
        said = capsys.readouterr()
        code = stop.value.code
        assert KEY not in said.out + said.err
        assert list(desk.rglob("*.tmp")) == []
        return code, said.out if code == 0 else one_sentence(said.err)

    return _run


@pytest.fixture
def send(run):
    def _send(*flags):
        return run("--run", "runs/A", "--send", "--poll", 0.05, *flags)

    return _send


def rows():
    return read_ledger(Path("submissions/ledger.csv")).to_dict("records")


def creations(kaggle):
    return kaggle.calls("CreateSubmission") + kaggle.calls("CreateCodeSubmission")


def test_without_send_nothing_leaves_the_machine(kaggle, run):
    code, said = run("--run", "runs/A")
    assert code == 0 and kaggle.log == []
    assert "kaggle competitions submit -c xray-demo -f submissions/A.csv -m A" in said
    assert Path("submissions/A.csv").read_bytes() == Path("runs/A/submission.csv").read_bytes()
    assert not Path("submissions/ledger.csv").exists()
    own = Path("runs/A/submission.csv")
    own.write_text("name,target\ntest_0,0\n")  # the competition's own files say what is asked for
    assert "3 rows, checked" in run("--run", "runs/A")[1]
    settings = Path("runs/A/config.json")
    settings.write_text(settings.read_text().replace('"submissions"', '"elsewhere"'))
    assert run("--run", "runs/A")[0] == 0  # where the run's own submission went
    assert Path("elsewhere/A.csv").is_file()
    shutil.rmtree("films")
    own.unlink()
    assert "There is nothing at films" in run("--run", "runs/A")[1]


def test_the_plain_client_takes_what_the_kit_wrote(kaggle, run, kaggle_cli, desk):
    _, said = run("--run", "runs/A")
    command = re.search("kaggle (competitions submit .*)", said)[1].split()
    done = kaggle_cli(*[word.replace("submissions/", "desk/submissions/") for word in command])
    assert done.returncode == 0 and "Successfully submitted" in done.stdout, done.stderr
    [held] = kaggle.submissions
    assert held.data == Path("submissions/A.csv").read_bytes()
    # Sent by hand, it is recognised later by its name, size and date.
    kaggle.submissions[0].pending = 0
    assert "1 submissions added (of 1 of them" in run("--sync", "--competition", SLUG)[1]
    [row] = rows()
    assert (row["run"], row["status"], row["public_score"]) == ("A", "COMPLETE", "0.75000")
    assert row["sha256"] == LocalFile(Path("submissions/A.csv")).sha256
    assert row["metric"] == "macro_f1" and row["val_score"]


def test_a_run_is_sent_scored_and_entered(kaggle, send):
    code, said = send("--message", "first")
    assert code == 0, said
    assert "5 submissions to xray-demo are left" in said
    assert "Scored: public score 0.75000, private score 0.50000, validation macro_f1 " in said
    path = Path("submissions/A.csv")
    [held] = kaggle.submissions
    assert held.data == path.read_bytes()
    assert held.description == f"first [{LocalFile(path).mark}]"
    [row] = rows()
    report = json.loads(Path("runs/A/metrics.json").read_text())
    assert (row["competition"], row["run"], row["file"]) == (SLUG, "A", "A.csv")
    assert row["sha256"] == LocalFile(path).sha256
    assert row["commit"] == (
        json.loads(Path("runs/A/environment.json").read_text())["commit"] or ""
    )
    assert row["ref"] == str(held.ref) and row["status"] == "COMPLETE"
    assert (row["public_score"], row["private_score"]) == ("0.75000", "0.50000")
    for name, entry in (
        ("val_score", report["competition"]["score"]),
        ("val_accuracy", report["overall"]["accuracy"]),
        ("val_macro_auroc", report["overall"]["macro_auroc"]),
    ):
        assert float(row[name]) == pytest.approx(entry["value"], abs=1e-6)
        assert float(row[f"{name}_low"]) == pytest.approx(entry["low"], abs=1e-6)
    assert pd.Timestamp(row["time"]).tzname() == "UTC"


def test_a_file_that_cannot_be_scored_fails_with_the_reason(kaggle, send):
    kaggle.solutions[SLUG] = lambda data: f"Submission must have 4 rows ({KEY})"
    code, said = send()
    assert code == 1
    assert re.search(r"could not score.*must have 4 rows \(\*\*\*\).*mend the file", said)
    [row] = rows()
    assert (row["status"], row["error"]) == ("ERROR", "Submission must have 4 rows (***)")


def test_a_lost_answer_leads_to_one_submission(kaggle, send):
    kaggle.fault("CreateSubmission", lose_answer=True)
    code, said = send()
    assert code == 0 and "It had arrived" in said
    assert len(kaggle.submissions) == len(creations(kaggle)) == len(rows()) == 1


def test_a_lost_call_leads_to_none_and_the_same_command_goes_on(kaggle, send):
    kaggle.fault("CreateSubmission", drop=True)
    code, said = send()
    assert code == 1 and "was not sent. Run the same command again" in said
    assert kaggle.submissions == [] and rows() == []
    assert send()[0] == 0
    assert len(rows()) == 1


def test_the_same_file_is_refused_by_ledger_and_by_mark(kaggle, send):
    assert send("--no-wait")[0] == 0
    Path("submissions/ledger.csv").unlink()
    code, said = send()  # Kaggle's own list knows it
    assert code == 1 and re.search("was sent to xray-demo before.*--again", said)
    kaggle.submissions[0].description = "renamed on the site"
    assert send("--no-wait")[0] == 0
    kaggle.submissions[1].description = "renamed on the site"
    code, said = send()  # the ledger knows it
    assert code == 1 and "was sent to xray-demo before" in said
    assert len(creations(kaggle)) == 2
    assert send("--again")[0] == 0
    assert len(creations(kaggle)) == 3 and len(rows()) == 2


def test_no_submission_left_says_when_there_will_be(kaggle, send):
    for ref in range(5):
        kaggle.submissions.append(Submission(SLUG, ref + 1, "x.csv", "", b"", (0.1, 0.1)))
    code, said = send()
    assert code == 1
    assert re.search(r"5 today, 5 in all.*not sent\. .*at 00:00 UTC, in \d+ h \d+ min", said)
    kaggle.fault("GetSubmissionLimits", answer={"numTotal": 9, "limitedByTotal": True})
    assert "whole allowance is used up" in send()[1]
    # Where Kaggle only refuses the submission itself:
    kaggle.fault("GetSubmissionLimits", answer={"numAllowedNow": 1})
    code, said = send()
    assert code == 1 and "daily Submission allowance" in said
    assert len(creations(kaggle)) == 1 and rows() == []


def test_what_nobody_judged_is_refused(kaggle, send):
    shutil.copy("runs/A/predictions/test.csv", "mean.csv")
    table = pd.read_csv("mean.csv")
    table[["covid", "pneumonia", "normal"]] = [[0.1, 0.2, 0.7], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1]]
    table.to_csv("mean.csv", index=False)
    other = ["--predictions", "mean.csv", "--output", "submissions/mean.csv"]
    code, said = send(*other)
    assert code == 1 and re.search("not made from runs/A's own.*--judged.*--unjudged", said)
    assert send(*other, "--unjudged")[0] == 0
    assert rows()[0]["val_score"] == ""
    assert send(*other, "--judged", "runs/A", "--again")[0] == 0
    assert rows()[1]["val_score"] != ""
    Path("runs/A/metrics.json").rename("metrics.json")
    code, said = send()
    assert code == 1 and "runs/A has no metrics.json" in said
    report = json.loads(Path("metrics.json").read_text())
    Path("metrics.json").write_text(json.dumps({**report, "competition_slug": "titanic"}))
    code, said = send("--judged", ".")
    assert code == 1 and "judges predictions for titanic" in said
    assert send("--unjudged")[0] == 0
    assert [held.file_name for held in kaggle.submissions] == ["mean.csv", "mean.csv", "A.csv"]


def test_a_checked_copy_of_the_runs_own_file_counts_as_judged(kaggle, run):
    shutil.copy("runs/A/submission.csv", "copy.csv")
    flags = ("--run", "runs/A", "--check", "copy.csv", "--send", "--poll", 0.05)
    assert run(*flags)[0] == 0
    assert rows()[0]["file"] == "copy.csv" and rows()[0]["val_score"]
    Path("copy.csv").write_text("name,target\ntest_0,7\n")
    code, said = run(*flags)
    assert code == 1 and "copy.csv lacks 2 ids" in said
    assert len(creations(kaggle)) == 1


def test_a_dry_run_sends_nothing(kaggle, run):
    code, said = run("--run", "runs/A", "--dry-run")
    assert code == 0
    assert re.search('Dry run: nothing was sent.*submissions/A.csv to xray-demo as "A', said)
    assert {call.method for call in kaggle.log} == {"ListSubmissions", "GetSubmissionLimits"}
    assert not Path("submissions/ledger.csv").exists()
    kaggle.submissions.append(Submission(SLUG, 1, "A.csv", said.split('"')[1], b"", (0.1, 0.1)))
    code, said = run("--run", "runs/A", "--dry-run")
    assert code == 1 and "was sent to xray-demo before" in said


def test_sync_fills_in_late_scores_and_lists_them(kaggle, send, run):
    assert send("--no-wait")[0] == 0
    assert rows()[0]["status"] == "PENDING"
    kaggle.fault(
        "ListSubmissions",
        answer={
            "submissions": [
                {"ref": kaggle.submissions[0].ref, "status": "COMPLETE", "publicScore": "0.75"}
            ]
        },
    )
    assert "1 rows updated, 0 submissions added" in run("--sync")[1]
    assert (rows()[0]["public_score"], rows()[0]["private_score"]) == ("0.75", "")
    kaggle.submissions[0].pending = 0
    assert "1 rows updated" in run("--sync")[1]
    assert rows()[0]["private_score"] == "0.50000"
    assert "0 rows updated" in run("--sync")[1]
    code, said = run("--list")
    assert code == 0 and re.search(r"A .* 0\.\d{4} \(.*0\.75000 +0\.50000 COMPLETE", said), said
    kaggle.submissions.clear()
    assert "Kaggle does not list 1 submissions" in run("--sync")[1]


def test_sync_adds_what_was_sent_by_other_ways(kaggle, run):
    def sent(ref, name, description, data, result=(0.6, 0.6)):
        kaggle.submissions.append(Submission(SLUG, ref, name, description, data, result))

    own = Path("runs/A/submission.csv").read_bytes()
    mark = LocalFile(Path("runs/A/submission.csv")).mark
    sent(1, "submission.csv", "A", own)
    sent(2, "gone.csv", "by hand", b"other", "broken")
    sent(3, "submission.csv", f"A [{mark}]", own)
    sent(4, "submission.csv", "A [0123456789ab]", own)  # another file with the same name and size
    sent(5, "submission.csv", "k [ada/demo/3/submission.csv]", b"x")
    sent(6, "../../etc/passwd", "../../etc", b"x")
    code, said = run("--sync", "--competition", SLUG)
    assert code == 0 and "6 submissions added (of 3 of them the origin is known)" in said
    assert [row["run"] for row in rows()] == ["A", "", "A", "", "", ""]
    assert [row["ref"] for row in rows()] == list("123456")
    assert (rows()[1]["status"], rows()[1]["error"]) == ("ERROR", "broken")
    assert rows()[4]["kernel_version"] == "ada/demo/3"
    assert "gone.csv (2) could not be scored: broken" in run("--list")[1]


def test_a_file_that_changed_since_is_not_the_one_that_was_sent_by_hand(kaggle, run):
    own = Path("runs/A/submission.csv")
    kaggle.submissions.append(Submission(SLUG, 1, own.name, "A", own.read_bytes(), (0.6, 0.6)))
    later = time.time() + 60
    os.utime(own, (later, later))
    assert "1 submissions added (of 0 of them" in run("--sync", "--competition", SLUG)[1]
    assert rows()[0]["run"] == ""


def test_a_file_beside_the_ledger_is_a_run_s_only_where_the_run_wrote_it(kaggle, run):
    for path in ("submissions/A.csv", "elsewhere.csv"):  # an ensemble's, say
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(b"another")
    for ref, name in ((1, "A.csv"), (2, "../elsewhere.csv")):
        kaggle.submissions.append(Submission(SLUG, ref, name, "x", b"another", (0.6, 0.6)))
    assert "2 submissions added (of 0 of them" in run("--sync", "--competition", SLUG)[1]
    assert [row["sha256"] for row in rows()] == [LocalFile(Path("submissions/A.csv")).sha256, ""]
    assert [(row["run"], row["val_score"]) for row in rows()] == [("", ""), ("", "")]


def test_sync_misses_only_submissions_of_the_competition_that_is_asked(kaggle, run):
    ledger = Path("submissions/ledger.csv")
    append(ledger, {"competition": "other", "ref": "3"})
    append(ledger, {"competition": SLUG, "status": "planned"})
    assert "does not list" not in run("--sync", "--competition", SLUG)[1]


def test_without_anything_to_do_it_says_what_can_be_done(kaggle, run, desk):
    assert "holds no submission yet" in run("--list")[1]
    for flags, said in (
        ((), "--run runs/NAME"),
        (("--sync",), "Give one with --competition"),
        (("--run", "runs/B"), "runs/B is not a run folder"),
        (("--kernel", "demo"), "must be OWNER/SLUG"),
        (("--kernel", "ada/demo"), "Say which version of ada/demo"),
        (("--kernel", "ada/demo", "--kernel-version", 0), "Say which version of ada/demo"),
        (("--kernel", "ada/demo", "--kernel-version", 1), "--competition SLUG"),
        (("--run", "runs/A", "--send", "--poll", 0), "above 0"),
        (("--list", "--send", "--no-wait"), "--send, --no-wait would do nothing beside --list. Le"),
        (("--sync", "--list", "--check", "x"), "--check would do nothing beside --sync and --list"),
        (("--sync", "--kernel", "ada/demo"), "--kernel would do nothing beside --sync. Leave it"),
        (("--kernel", "ada/demo", "--check", "x"), "--check would do nothing beside --kernel"),
        (
            ("--run", "runs/A", "--kernel-file", "x"),
            "--kernel-file would do nothing beside --run",
        ),
        (("--run", "runs/A", "--check", "x", "--output", "y"), "--output would do nothing beside"),
    ):
        code, sentence = run(*flags)
        assert code == 1 and said in sentence
    text = (desk / "runs/A/competition.toml").read_text()
    (desk / "runs/A/competition.toml").write_text(
        text.replace('source = "competition"', 'source = "dataset"')
    )
    code, sentence = run("--run", "runs/A", "--send")
    assert code == 1 and "not described as a Kaggle competition" in sentence
    assert kaggle.log == []
    flags = ("--run", "runs/A", "--send", "--competition", SLUG, "--no-wait")
    assert run(*flags)[0] == 0
    assert rows()[0]["competition"] == SLUG


def test_a_damaged_ledger_stops_before_anything_is_sent(kaggle, send):
    Path("submissions").mkdir()
    Path("submissions/ledger.csv").write_text("something else\n")
    code, said = send()
    assert code == 1 and "is not a ledger" in said
    assert creations(kaggle) == []


def test_a_ledger_that_cannot_be_written_stops_before_anything_is_sent(kaggle, send):
    Path("submissions/.ledger.csv.lock").mkdir(parents=True)
    code, said = send()
    assert code == 1 and ".ledger.csv.lock" in said
    assert creations(kaggle) == []


def test_the_same_file_may_go_to_another_competition(kaggle, run, send):
    assert run("--run", "runs/A")[0] == 0
    digest = LocalFile(Path("submissions/A.csv")).sha256
    append(Path("submissions/ledger.csv"), {"competition": "other", "ref": "3", "sha256": digest})
    assert send("--no-wait")[0] == 0
    assert [row["competition"] for row in rows()] == ["other", SLUG]
    # Without a name, both are listed and asked for.
    assert all(slug in run("--list")[1] for slug in ("other", SLUG))
    kaggle.competitions["other"] = kaggle.competitions[SLUG]
    kaggle.rules_accepted.add("other")
    said = run("--sync")[1]
    assert all(f"{slug}: " in said for slug in ("other", SLUG))


def test_a_kernels_version_is_submitted_with_the_runs_scores(kaggle, run):
    kaggle.code_competitions.add(SLUG)
    version = KernelVersion(1, "", {}, {}, ["COMPLETE"], files={"submission.csv": b"name,target"})
    kaggle.kernels["ada/demo"] = Kernel([version])
    code, said = run("--run", "runs/A", "--send")
    assert code == 1 and "only accepts submissions from notebooks" in said
    flags = ("--kernel", "ada/demo", "--kernel-version", 1, "--kernel-file", "submission.csv")
    flags += ("--competition", SLUG, "--poll", 0.05)
    assert run(*flags, "--dry-run")[0] == 0
    code, said = run(*flags)
    assert code == 1 and "is submitted with --send" in said
    assert kaggle.submissions == []
    flags += ("--send",)
    code, said = run(*flags, "--run", "runs/A")
    assert code == 0 and "public score 0.75000" in said
    [row] = rows()
    assert (row["kernel_version"], row["file"]) == ("ada/demo/1", "submission.csv")
    assert row["val_score"] and row["sha256"] == ""
    code, said = run(*flags)
    assert code == 1 and "submission.csv of kernel ada/demo, version 1 was sent" in said
    kaggle.submissions.clear()
    assert run(*flags)[0] == 1  # the ledger knows it too
    assert run(*flags, "--again")[0] == 0
    assert len(kaggle.submissions) == 1


@pytest.fixture
def interrupt(kaggle):
    """Send SIGINT to this process as soon as a method is called."""
    threads = []

    def _interrupt(method):
        def wait():
            end = time.monotonic() + 30
            while not kaggle.calls(method) and time.monotonic() < end:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGINT)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    yield _interrupt
    for thread in threads:
        thread.join()


def test_ctrl_c_while_waiting_loses_nothing(kaggle, desk, run):
    kaggle.scoring_polls = 10_000
    command = [sys.executable, "-m", "xraycomp.submit", "--run", "runs/A", "--send", "--poll", "9"]
    environment = {**os.environ, "PYTHONPATH": str(Path(submit.__file__).parents[1])}
    terminal, stderr = os.openpty()
    termios.tcsetwinsize(stderr, (24, 100))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr)
    os.close(stderr)
    end = time.monotonic() + 60
    while not kaggle.calls("GetSubmission"):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.05)
    assert rows()[0]["status"] == "PENDING"  # entered before the waiting
    time.sleep(1.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    said = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert f"Submission {kaggle.submissions[0].ref}: pending [00:01]" in said
    last = said.strip().splitlines()[-1]
    assert re.search(f"^Stopped waiting.*--sync --competition {SLUG}", last)
    kaggle.submissions[0].pending = 0
    assert run("--sync")[0] == 0
    [row] = rows()
    assert (row["status"], row["public_score"]) == ("COMPLETE", "0.75000")


def test_ctrl_c_while_kaggle_is_asked_waits_for_its_answer(kaggle, send, interrupt):
    kaggle.fault("CreateSubmission", delay=0.5)
    interrupt("CreateSubmission")
    code, said = send()
    ref = kaggle.submissions[0].ref
    assert code == 130 and f"sent as submission {ref}" in said and "--sync" in said
    assert rows()[0]["ref"] == str(ref)


def test_ctrl_c_before_kaggle_is_asked_sends_nothing(kaggle, send, interrupt):
    kaggle.fault("StartSubmissionUpload", status=429, headers={"Retry-After": "3"})
    interrupt("StartSubmissionUpload")
    code, said = send()
    assert code == 130 and re.search("on its way.*--sync", said)
    assert kaggle.submissions == [] and rows() == []


def test_no_secret_reaches_ledger_or_output(kaggle, send, run):
    # ``run`` looks at every output for the key.
    kaggle.fault("CreateSubmission", status=400, message=f"refused {KEY}")
    assert "refused ***" in send("--message", f"my key is {KEY}")[1]
    assert send("--message", f"my key is {KEY}")[0] == 0
    kaggle.submissions.append(
        Submission(SLUG, 7, f"{KEY}.csv", f"by hand {KEY}", b"", f"wrong {KEY}")
    )
    assert run("--sync")[0] == 0
    assert run("--list")[0] == 0
    assert KEY not in kaggle.submissions[0].description
    for path in Path().rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_as_a_function_it_raises_one_sentence(desk):
    with pytest.raises(UserError, match="--list"):
        submit.submit(submit.SubmitConfig())
    path = submit.submit(submit.SubmitConfig(run=Path("runs/A")))
    assert path == Path("submissions/A.csv")


def test_an_ensemble_of_runs_is_submitted_with_its_own_scores(run, desk, kaggle):
    shutil.copytree("runs/A", "runs/B")
    table = pd.read_csv("runs/B/predictions/test.csv")
    names = ["covid", "pneumonia", "normal"]
    table[names] = np.roll(table[names].to_numpy(), 1, axis=1)
    table.iloc[::-1].to_csv("runs/B/predictions/test.csv", index=False)
    ensemble.main(["--runs", "runs/A", "runs/B", "--output", "ensembles/AB"])
    flags = ["--check", "ensembles/AB/submission.csv", "--judged", "ensembles/AB"]
    code, said = run("--run", "runs/A", *flags, "--message", "AB", "--send", "--poll", "0.1")
    assert code == 0, said
    row = read_ledger(Path("submissions/ledger.csv")).iloc[-1]
    metrics = json.loads(Path("ensembles/AB/metrics.json").read_text())
    assert float(row["val_score"]) == pytest.approx(
        metrics["competition"]["score"]["value"], abs=1e-4
    )
    both = [pd.read_csv(f"runs/{name}/predictions/test.csv") for name in "AB"]
    both = [each.set_index("image").sort_index()[names].to_numpy() for each in both]
    sent = pd.read_csv("ensembles/AB/submission.csv").sort_values("name")
    assert list(sent["target"]) == list(np.mean(both, axis=0).argmax(axis=1))
