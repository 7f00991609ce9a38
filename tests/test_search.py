"""Searches as a user starts them: several processes on one study, killed, stopped, gone on with.

Trials are real runs of a small network on drawn images.
"""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from xraycomp import report, search
from xraycomp.console.errors import UserError
from xraycomp.model.config import TrainConfig
from xraycomp.studies import searching
from xraycomp.studies.claims import claim_trial
from xraycomp.studies.config import SearchConfig
from xraycomp.studies.study import open_study

SPACE = """
title = "Optimizers"

[choices.sgd]
optimizer = "sgd"
lr = { values = [0.01, 0.05] }

[choices.adamw]
optimizer = "adamw"
lr = { values = [0.001, 0.003] }
"""
GRID = Counter({("sgd", 0.01): 1, ("sgd", 0.05): 1, ("adamw", 0.001): 1, ("adamw", 0.003): 1})
SMALL = ("--data", "films", "--image-size", "16", "--batch-size", "8", "--val-fraction", "0.25")


@pytest.fixture
def here(tmp_path: Path, draw_tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with drawn films and a space, in which commands run."""
    draw_tree(tmp_path / "films")
    (tmp_path / "space.toml").write_text(SPACE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(here: Path, environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Start a search in a process of its own."""

    def _start(*args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "xraycomp.search", *args],
            cwd=here,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return _start


def run(space: str, *flags: str, epochs: int = 1, text: str | None = None) -> dict[str, Any]:
    """Search in this process and return ``study.json``."""
    if text is not None:
        Path(space).write_text(text, encoding="utf-8")
    own = ["--space", space, "--study", "s", *flags]
    search.main([*own, "--", *SMALL, "--epochs", str(epochs)])
    return tally("s")


def tally(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs", name, "study.json").read_text(encoding="utf-8"))
    return found


def combinations(found: dict[str, Any], *states: str) -> Counter[tuple[str, float]]:
    rows = [row["params"] for row in found["trials"] if row["state"] in (states or ("complete",))]
    return Counter((row["optimizer"], row["lr"]) for row in rows)


def its_trial(process: subprocess.Popen[str]) -> Path:
    """The folder of the first trial that a process works on, once it has a checkpoint."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.match(r"Trial (\d+) of ", line):
            folder = Path("runs", "two", f"trial-{int(found[1]):04d}")
            while not (folder / "checkpoint.pt").is_file():
                assert process.poll() is None
                time.sleep(0.02)
            return folder
    raise AssertionError("".join(lines))


def test_wrong_data_is_said_before_there_is_a_study(here):
    with pytest.raises(UserError, match=r"^There is nothing at film\. Check the path given with"):
        search.main(["--space", "space.toml", "--study", "s", "--", "--data", "film"])
    assert not Path("runs").exists()


def test_two_processes_share_a_study_and_make_up_for_one_that_is_killed(here, start):
    shared = [*SMALL, "--epochs", "5"]
    processes = [start("--space", "space.toml", "--study", "two", "--", *shared) for _ in "ab"]
    folder = its_trial(processes[0])
    processes[0].kill()
    processes[0].wait()
    begun = len(pd.read_csv(folder / "metrics.csv"))
    assert 1 <= begun < 5
    assert not (folder / "finished.json").exists()
    said, _ = processes[1].communicate(timeout=500)
    assert processes[1].returncode == 0, said
    found = tally("two")
    # None lost, none doubled, and the killed one went on from its checkpoint.
    assert combinations(found) == GRID
    assert [row["state"] for row in found["trials"]] == ["complete"] * 4
    assert "Continuing" in (folder / "train.log").read_text(encoding="utf-8")
    for row in found["trials"]:
        epochs = pd.read_csv(here / "runs" / "two" / row["run"] / "metrics.csv")
        assert list(epochs["epoch"]) == list(range(1, 6))
        assert row["value"] == pytest.approx(epochs["val_macro_f1"].max())
        assert row["epochs"] == 5
    # Of a whole study the same command says what is there.
    again = start("--study", "two")
    said, _ = again.communicate(timeout=500)
    assert again.returncode == 0
    assert "Trial" not in said
    assert combinations(tally("two")) == GRID


def test_a_search_that_is_stopped_goes_on(here, start):
    process = start("--space", "space.toml", "--study", "two", "--", *SMALL, "--epochs", "9")
    folder = its_trial(process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Go on with: python -m xraycomp.search --study two" in said
    assert "Traceback" not in said
    before = len(pd.read_csv(folder / "metrics.csv"))
    assert [row["state"] for row in tally("two")["trials"]] == ["running"] + ["waiting"] * 3
    # A limit of time is the whole search's.
    search.main(["--study", "two", "--", "--time-limit", "0.001"])
    assert [row["state"] for row in tally("two")["trials"]] == ["running"] + ["waiting"] * 3
    again = start("--study", "two", "--trials", "1")
    said, _ = again.communicate(timeout=500)
    assert again.returncode == 0, said
    epochs = pd.read_csv(folder / "metrics.csv")
    assert list(epochs["epoch"]) == list(range(1, 10))
    assert before < 9
    assert tally("two")["trials"][0]["state"] == "complete"
    assert tally("two")["trials"][1]["state"] == "waiting"


FAILING = """
[choices.good]
optimizer = "adamw"
lr = 0.001

[choices.diverges]
optimizer = "sgd"
lr = 1e30
clip_grad = 0.0

[choices.impossible]
start_size = 32
lr = 0.001
"""


def test_trials_that_fail_are_marked_and_the_study_goes_on(here):
    found = run("space.toml", "--seeds", "1", text=FAILING)
    good, diverged, impossible = found["trials"]
    assert good["state"] == "complete"
    assert [row["state"] for row in (diverged, impossible)] == ["failed"] * 2
    assert "The loss became" in diverged["reason"]
    assert impossible["reason"].startswith("--start-size is 32; it must be image_size or less")
    assert found["best"] == 0
    # The failed ones are not tried again but on request.
    run("space.toml", "--seeds", "1")
    assert len(tally("s")["trials"]) == 3
    found = run("space.toml", "--seeds", "1", "--retry-failed")
    assert [row["state"] for row in found["trials"]] == ["complete"] + ["failed"] * 4


def test_a_trial_whose_processes_die_is_given_up(here):
    run("space.toml", "--trials", "1")
    search.main(["--study", "s", "--trials", "2", "--", "--time-limit", "0.001"])
    study = open_study(Path("runs/s"), "")
    assert study is not None
    for deaths in range(3):
        claim = claim_trial(study, 60)
        assert claim is not None
        assert (claim.trial.number, claim.deaths) == (1, deaths)
        # Nobody else gets what a living process works on.
        assert claim_trial(study, 60) is None
        claim.lock.close()  # as the end of its process does
    search.main(["--study", "s"])
    found = tally("s")
    assert found["trials"][1]["reason"].startswith("3 processes died in it")
    assert [row["state"] for row in found["trials"]] == ["complete", "failed"] + ["waiting"] * 2


def test_a_trial_out_of_memory_is_marked(here):
    # 32 TB for one batch's activations.
    found = run("space.toml", text="[space]\nhead = {values = [[16], [4000000000000]]}\n")
    assert [row["state"] for row in found["trials"]] == ["complete", "failed"]
    assert found["trials"][1]["reason"].startswith("It ran out of memory")
    assert found["trials"][0]["params"] == {"head": [16]}


def test_a_search_whose_first_trials_all_fail_stops(here):
    space = "[space]\narch = 'no_such_net'\nseed = {values = [0, 1, 2, 3, 4]}\n"
    with pytest.raises(UserError, match=r"The first 3 trials failed for one reason: .*no_such_net"):
        run("space.toml", text=space)
    assert Counter(row["state"] for row in tally("s")["trials"]) == {"failed": 3, "waiting": 2}
    seeds = ["--space", "seeds.toml", "--study", "folds", "--", *SMALL, "--folds", "2"]
    Path("seeds.toml").write_text("[space]\nseed = {values = [0, 1, 2]}\n", encoding="utf-8")
    with pytest.raises(UserError, match="A trial trains one model"):
        search.main(seeds)


def test_a_study_continues_with_more_trials_and_draws_as_in_one_go(here):
    space = (
        "[space]\nlr = {low = 0.0001, high = 0.1, log = true}\nflip = {values = [true, false]}\n"
    )
    flags = ("--sampler", "random", "--sampler-seed", "3")
    run("space.toml", *flags, "--trials", "1", text=space)
    apart = run("space.toml", *flags, "--trials", "3")["trials"]
    (here / "runs" / "s").rename(here / "before")
    # As a kernel does it, which has no flags.
    recipe = TrainConfig(
        data=Path("films"), image_size=16, batch_size=8, val_fraction=0.25, epochs=1
    )
    searching.search(SearchConfig("s", "space.toml", 3, sampler="random", sampler_seed=3), recipe)
    once = tally("s")["trials"]
    assert [row["params"] for row in apart] == [row["params"] for row in once]
    assert [row["value"] for row in apart] == [row["value"] for row in once]
    assert all(0.0001 <= row["params"]["lr"] <= 0.1 for row in once)
    assert len({row["params"]["lr"] for row in once}) == 3


def test_a_pruner_ends_trials_that_fall_behind(here):
    # The one that cannot learn comes when the others have shown what can be reached.
    space = "[fixed]\noptimizer = 'adamw'\nmonitor = 'val_loss'\n[space]\n"
    space += "lr = {values = [0.003, 0.002, 0.001, 10.0]}\n"
    found = run("space.toml", "--pruner", "asha", text=space, epochs=3)
    states = [row["state"] for row in found["trials"]]
    assert states[0] == "complete"
    assert states[3] == "pruned"
    last = found["trials"][3]
    assert last["epochs"] == len(pd.read_csv(Path("runs/s/trial-0003/metrics.csv"))) < 3
    assert last["value"] > found["trials"][found["best"]]["value"]  # less is better
    assert not list(Path("runs/s/trial-0003").glob("*.pt"))
    assert [path.name for path in Path("runs/s/trial-0000").glob("*.pt")] == ["best.pt"]


def test_a_trial_that_has_trained_to_its_end_is_not_pruned(here):
    space = "[fixed]\noptimizer = 'adamw'\nmonitor = 'val_loss'\n[space]\n"
    space += "lr = {values = [0.003, 10.0]}\n"
    found = run("space.toml", "--pruner", "asha", text=space)
    assert [row["state"] for row in found["trials"]] == ["complete"] * 2
    assert found["trials"][1]["value"] > found["trials"][0]["value"]


def test_a_trial_counts_as_good_as_its_best_epoch_so_far(here):
    space = "[fixed]\nmonitor = 'val_loss'\nema_decay = 0.0\n[space]\nlr = {values = [0.5, 1.0]}\n"
    run("space.toml", text=space, epochs=4)
    worse = 0
    for trial in open_study(Path("runs/s"), "").load().trials:
        losses = pd.read_csv(f"runs/s/trial-{trial.number:04d}/metrics.csv")["val_loss"]
        assert list(trial.intermediate_values.values()) == list(losses.cummin())
        worse += (losses.diff() > 0).sum()
    assert worse  # else this says nothing


def test_one_study_does_not_take_the_trials_of_another_in_its_folder_for_its_own(here):
    Path("other.toml").write_text("[space]\nlr = {values = [0.02]}\n", encoding="utf-8")
    kept = ["--study", "s", "--storage", "sqlite:///one.db"]
    asked = ["--", *SMALL, "--epochs", "1"]
    search.main(["--space", "other.toml", *kept, *asked])
    said = "^runs/s belongs to another study. Go on with that one by its own --storage"
    with pytest.raises(UserError, match=said):
        search.main(["--space", "space.toml", "--study", "s", *asked])
    assert not Path("runs/s/journal.log").exists()
    with pytest.raises(UserError, match=said):
        search.main(["--space", "space.toml", *kept[:3], "sqlite:///other.db", *asked])
    search.main([*kept])
    assert [row["params"] for row in tally("s")["trials"]] == [{"lr": 0.02}]
    # Nor after its journal was removed, to begin anew.
    run("space.toml", "--study", "t", "--trials", "1")
    Path("runs/t/journal.log").unlink()
    with pytest.raises(UserError, match=r"^runs/t belongs to another study"):
        search.main(["--space", "other.toml", "--study", "t", *asked])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--folds", "3"], "^A trial trains one model, and --folds without --fold several"),
        (["--resume", "runs/s"], "^--resume is not for a search"),
    ],
)
def test_what_no_trial_can_do_is_said_before_there_is_a_study(here, flags, said):
    Path("runs/s").mkdir(parents=True)
    if "--resume" in flags:
        search.main(["--space", "space.toml", "--study", "r", "--trials", "1", "--", *SMALL])
        flags = ["--resume", "runs/r/trial-0000"]
    with pytest.raises(UserError, match=said):
        search.main(["--space", "space.toml", "--study", "s", "--", *SMALL, *flags])
    assert not list(Path("runs/s").iterdir())


def test_a_study_goes_on_without_flags_of_what_it_searches(here):
    run("space.toml", "--trials", "1")
    with pytest.raises(UserError, match=r"^--lr is what the space of runs/s searches"):
        search.main(["--study", "s", "--", "--lr", "0.1"])
    assert tally("s")["planned"] == 1
    run("space.toml", "--trials", "9", "--study", "t")
    assert tally("t")["planned"] == 4


def test_a_database_serves_as_storage(here):
    found = run("space.toml", "--storage", "sqlite:///s.db", "--sampler", "tpe", "--trials", "3")
    assert [row["state"] for row in found["trials"]] == ["complete"] * 3
    search.main(["--study", "s", "--storage", "sqlite:///s.db", "--trials", "4"])
    assert len(tally("s")["trials"]) == 4
    assert not Path("runs/s/journal.log").exists()
    assert "--storage sqlite:///s.db" in tally("s")["go_on"]
    with pytest.raises(UserError, match=r"The storage postgres://nowhere cannot be opened"):
        search.main(["--study", "s", "--storage", "postgres://nowhere"])


def pause(process: subprocess.Popen[str], database: str) -> None:
    """Stop a process where it does not hold the database."""
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(database, timeout=0.2)) as held:
                held.execute("BEGIN IMMEDIATE")
                return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.02)
    raise AssertionError("It always holds the database.")


def test_a_machine_that_slept_goes_on_when_its_trial_was_finished_elsewhere(here, start):
    # A name of its own: this process still has open what other tests called s.db.
    storage = ["--storage", "sqlite:///slept.db"]
    new = ["--space", "space.toml", "--study", "two", "--trials", "2", *storage]
    asleep = start(*new, "--", *SMALL, "--epochs", "9")
    folder = its_trial(asleep)
    try:
        pause(asleep, "slept.db")
        assert len(pd.read_csv(folder / "metrics.csv")) < 9
        awake = ["--study", "two", "--trials", "1", "--dead-after", "0", *storage]
        search.main([*awake, "--", "--runs-dir", "elsewhere"])
        value = json.loads(Path("elsewhere/two/study.json").read_text())["trials"][0]["value"]
        asleep.send_signal(signal.SIGCONT)
        said, _ = asleep.communicate(timeout=500)
    finally:
        asleep.kill()
    assert asleep.returncode == 0, said
    assert "Trial 0: another process has finished it." in said
    found = tally("two")
    assert [row["state"] for row in found["trials"]] == ["complete"] * 2 + ["waiting"] * 2
    assert found["trials"][0]["value"] == value
    assert not list(folder.glob("*.pt"))  # nobody goes on with it


def test_a_copy_of_a_study_goes_on_elsewhere_and_comes_back_without_doubles(here):
    run("space.toml", "--trials", "2")
    copied = ["--import-study", str(here / "runs" / "s"), "--study", "s"]
    elsewhere = ["--", "--runs-dir", "elsewhere"]
    search.main([*copied, "--trials", "4", *elsewhere])
    there = json.loads(Path("elsewhere/s/study.json").read_text(encoding="utf-8"))
    assert combinations(there) == GRID
    # Here one more is done meanwhile, which is there too.
    search.main(["--study", "s", "--trials", "3"])
    back = ["--study", "s", "--import-study", "elsewhere/s", "--trials", "4"]
    search.main(back)
    assert combinations(tally("s")) == GRID
    search.main(back)
    found = tally("s")
    assert combinations(found) == GRID
    assert len(found["trials"]) == 4
    for one in found["trials"]:
        metrics = pd.read_csv(here / "runs" / "s" / one["run"] / "metrics.csv")
        assert metrics["val_macro_f1"].max() == pytest.approx(one["value"])
    # Killed when the last of them was told and its run not copied yet.
    theirs = found["trials"][3]["run"]
    shutil.rmtree(here / "runs" / "s" / theirs)
    search.main(back)
    ours = here / "runs" / "s" / theirs / "metrics.csv"
    assert ours.read_bytes() == Path("elsewhere", "s", theirs, "metrics.csv").read_bytes()
    # Drawn trials have no place that waits for them.
    run_drawn = ["--space", "drawn.toml", "--study", "d", "--trials", "1", "--", *SMALL]
    Path("drawn.toml").write_text("[space]\nlr = {low = 0.001, high = 0.01}\n", encoding="utf-8")
    search.main([*run_drawn, "--epochs", "1"])
    search.main(["--import-study", "runs/d", "--study", "d", "--trials", "2", *elsewhere])
    search.main(["--import-study", "elsewhere/d", "--study", "d", "--trials", "2"])
    assert [row["state"] for row in tally("d")["trials"]] == ["complete"] * 2
    with pytest.raises(UserError, match=r"is the study d and not s"):
        search.main(["--import-study", "elsewhere/d", "--study", "s"])


def test_a_journal_keeps_what_optuna_itself_can_read(here):
    found = run("space.toml")
    backend = optuna.storages.journal.JournalFileBackend("runs/s/journal.log")
    study = optuna.load_study(storage=optuna.storages.JournalStorage(backend), study_name="s")
    assert study.best_value == found["trials"][found["best"]]["value"]
    assert [trial.intermediate_values for trial in study.trials] == [
        {1: row["value"]} for row in found["trials"]
    ]


def test_seeds_repeat_each_combination_and_are_averaged(here, caplog):
    found = run("space.toml", "--seeds", "2")
    assert combinations(found) == Counter(dict.fromkeys(GRID, 2))
    # Each combination comes once before one comes twice.
    assert [row["params"]["seed"] for row in found["trials"]] == [0] * 4 + [1] * 4
    table = pd.DataFrame([{**row["params"], "value": row["value"]} for row in found["trials"]])
    expected = table.groupby(["optimizer", "lr"])["value"].agg(["mean", "std"])
    for one in found["combinations"]:
        row = expected.loc[(one["params"]["optimizer"], one["params"]["lr"])]
        assert (one["mean"], one["sd"]) == pytest.approx((row["mean"], row["std"]))
    means = [one["mean"] for one in found["combinations"]]
    assert means == sorted(means, reverse=True)
    assert set(found["importances"]) == {"seed", "optimizer", "lr"}
    assert sum(found["importances"].values()) == pytest.approx(1, abs=1e-3)


def test_seeds_stand_in_for_those_of_the_space(here):
    text = "[space]\nflip = {values = [true, false]}\nseed = {values = [7, 8, 9]}\n"
    found = run("space.toml", "--seeds", "2", text=text)
    params = [(row["params"]["flip"], row["params"]["seed"]) for row in found["trials"]]
    assert sorted(params) == [(False, 0), (False, 1), (True, 0), (True, 1)]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "Name the study, as in"),
        (("--study", "new"), r"There is no study runs/new yet\. Say what to search with --space"),
        (("--study", "new", "--space", "optimiser"), "Did you mean optimizer"),
        (("--study", "new", "--trials", "0"), "--trials is 0; it must be at least 1"),
        (("--study", "n", "--space", "optimizer", "--", "--lr", "1"), "--lr is what .* searches"),
        (("--study", "n", "--space", "optimizer", "--", "--name", "x"), "--name is not for a se"),
        (("--study", "n", "--space", "fast", "--sampler", "grid"), "is a range without a step"),
        (
            ("--study", "n", "--space", "optimizer", "--sampler", "tpe", "--seeds", "2"),
            "^--seeds repeats each combination of a grid, but the sampler is tpe, .* no seeds",
        ),
        (("--study", "n", "--space", "fast", "--seeds", "2"), "but the sampler is tpe"),
        (
            ("--study", "n", "--space", "optimizer", "--seeds", "2", "--", "--seed", "1"),
            "^--seed is what --seeds says",
        ),
        (("--study", "n", "--import-study", "nowhere"), "nowhere is not a study"),
        (("--study", "a/b", "--space", "optimizer"), "^--study is a/b; it must be a plain folder"),
        (("--study", "n", "--data", "x"), "^--data is a flag of training. Those follow after --"),
    ],
)
def test_mistakes_are_one_sentence(here, args, sentence):
    with pytest.raises(UserError, match=sentence):
        search.main(list(args))
    assert not (here / "runs").exists()


def test_another_search_of_the_same_name_is_refused(here):
    run("space.toml", "--trials", "1")
    with pytest.raises(UserError, match="was started with another --space"):
        run("optimizer", "--trials", "1")
    with pytest.raises(UserError, match="was started with --epochs 1 and cannot go on with 2"):
        run("space.toml", epochs=2)
    page = Path("runs/s/study.html")
    page.unlink()
    report.main(["runs/s"])
    assert "best so far" in page.read_text(encoding="utf-8")


def test_the_folder_of_a_run_is_not_made_a_study(here):
    run = here / "runs" / "A"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    with pytest.raises(UserError, match="runs/A holds a run and is no study"):
        search.main(["--study", "A", "--space", "optimizer"])
    assert [path.name for path in run.iterdir()] == ["config.json"]
