"""Inside a session: what is found where, what is continued, how long it may take, how it ends."""

import dataclasses
import json
import logging
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.data.stand_ins import draw_slice
from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.remote.mounts import mount_path
from xraycomp.remote.sandbox import listing_of
from xraycomp.remote.session import (
    check_gpu,
    check_output_size,
    prepare_session,
    run_session,
    shorten,
)

ACSE = TrainConfig(competition="acse4-ml-2020", name="first")
PHANTOM = TrainConfig(competition="phantom", name="first")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder like /kaggle with the competition attached."""
    root = tmp_path / "kaggle"
    (root / "input" / "competitions" / "acse4-ml-2020" / "xray-data").mkdir(parents=True)
    (root / "working").mkdir()
    return root


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("slug", "place"),
    [
        ("acse4-ml-2020", "competitions/acse4-ml-2020"),
        ("acse4-ml-2020", "acse4-ml-2020"),
        ("pediatric-pneumonia", "datasets/somebody/pediatric-pneumonia"),
        ("pediatric-pneumonia", "pediatric-pneumonia"),
    ],
)
def test_data_is_found_under_both_layouts(tmp_path: Path, slug: str, place: str) -> None:
    found = tmp_path / "input" / place
    found.mkdir(parents=True)
    (tmp_path / "input" / "other-data").mkdir()
    config = prepare_session(TrainConfig(competition=slug), tmp_path, tmp_path / "scratch")
    assert config.data == found
    assert config.data_dir == tmp_path / "scratch"
    assert config.runs_dir == tmp_path / "working" / "runs"
    assert config.submissions_dir == tmp_path / "working" / "submissions"


@pytest.mark.parametrize(
    ("kind", "source", "new", "old"),
    [
        ("competition", "titanic", "competitions/titanic", "titanic"),
        ("dataset", "me/nets/3", "datasets/me/nets", "nets"),
        ("kernel", "me/earlier", "notebooks/me/earlier", "earlier"),
        ("model", "me/net/pyTorch/b0/1", "models/me/net/pyTorch/b0/1", "net/pyTorch/b0/1"),
    ],
)
def test_each_layout_has_its_places(kind: str, source: str, new: str, old: str) -> None:
    assert mount_path(kind, source, "new") == new
    assert mount_path(kind, source, "old") == old


def test_data_that_is_not_attached_is_an_error_that_lists_what_is(tmp_path: Path) -> None:
    for index in range(200):
        put(tmp_path / "input" / "competitions" / "other" / "train" / f"{index}.png")
    put(tmp_path / "input" / "datasets" / "me" / "weights" / "a.pth")
    for index in range(60):
        (tmp_path / "input" / "datasets" / "many" / f"set{index}").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        prepare_session(ACSE, tmp_path, tmp_path)
    said = str(caught.value)
    assert said.startswith(f"No data of acse4-ml-2020 is attached: {tmp_path}/input holds ")
    assert "competitions/other/train/ (200 files)" in said
    assert "more" in said and len(said) < 3000
    assert "competition_sources" in said and "https://www.kaggle.com/c/acse4-ml-2020/rules" in said


def test_an_empty_input_is_said_to_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="input holds nothing"):
        prepare_session(ACSE, tmp_path, tmp_path)


def test_data_attached_twice_is_an_error(root: Path) -> None:
    (root / "input" / "acse4-ml-2020").mkdir()
    with pytest.raises(UserError, match="is attached more than once"):
        prepare_session(ACSE, root, root)


def test_the_drawn_competition_needs_no_data(tmp_path: Path) -> None:
    assert prepare_session(PHANTOM, tmp_path, tmp_path).data is None


def test_a_kernel_must_name_its_competition(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name no competition"):
        prepare_session(TrainConfig(), tmp_path, tmp_path)


def test_weights_are_found_by_their_name(root: Path) -> None:
    path = put(root / "input" / "datasets" / "me" / "nets" / "v1" / "net.safetensors")
    put(root / "input" / "competitions" / "acse4-ml-2020" / "xray-data" / "net.safetensors")
    config = dataclasses.replace(ACSE, weights="net.safetensors")
    assert prepare_session(config, root, root).weights == str(path)
    for word in ("none", "imagenet"):
        config = dataclasses.replace(ACSE, weights=word)
        assert prepare_session(config, root, root).weights == word
    again = put(root / "input" / "nets" / "net.safetensors")
    config = dataclasses.replace(ACSE, weights="net.safetensors")
    with pytest.raises(UserError) as caught:
        prepare_session(config, root, root)
    assert f"2 attached files are called net.safetensors: {path}, {again}" in str(caught.value)
    with pytest.raises(UserError, match=r"No file other\.pth is attached: .*datasets/me/nets/v1"):
        prepare_session(dataclasses.replace(ACSE, weights="other.pth"), root, root)


def attach_run(root: Path, config: TrainConfig, where: str = "notebooks/me/earlier") -> Path:
    run = root / "input" / where / "runs" / str(config.name)
    put(run / "config.json", json.dumps(config.to_json()))
    put(run / "checkpoint.pt", "weights")
    put(run / "predictions" / "val.csv", "image")
    return run


@pytest.mark.parametrize("where", ["notebooks/me/earlier", "earlier"])
def test_an_attached_run_of_the_same_name_is_continued(root: Path, where: str) -> None:
    saved = dataclasses.replace(
        ACSE, data=Path("/kaggle/input/old"), time_limit=5.0, workers=3, runs_dir=Path("/x")
    )
    for file in attach_run(root, saved, where).rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    config = prepare_session(ACSE, root, root)
    assert config.resume == root / "working" / "runs" / "first"
    assert (config.resume / "checkpoint.pt").read_text() == "weights"
    copied = [config.resume, *config.resume.rglob("*")]
    assert all(path.stat().st_mode & stat.S_IWUSR for path in copied)
    assert (config.resume / "predictions" / "val.csv").is_file()


def test_a_run_of_another_name_or_without_a_checkpoint_is_not_continued(root: Path) -> None:
    attach_run(root, dataclasses.replace(ACSE, name="second"))
    put(root / "input" / "notebooks" / "me" / "earlier" / "runs" / "first" / "config.json", "{}")
    assert prepare_session(ACSE, root, root).resume is None


def test_an_attached_run_of_all_folds_is_continued_with_its_folds(root: Path) -> None:
    run = attach_run(root, dataclasses.replace(ACSE, folds=3))
    (run / "checkpoint.pt").unlink()
    for number in range(2):
        put(run / f"first-fold{number}" / "config.json", "{}")
        put(run / f"first-fold{number}" / "checkpoint.pt", "weights")
    resume = prepare_session(dataclasses.replace(ACSE, folds=3), root, root).resume
    assert resume == root / "working" / "runs" / "first"
    assert (resume / "first-fold1" / "checkpoint.pt").is_file()


def test_a_table_of_pseudo_labels_is_found_by_its_name(root: Path) -> None:
    path = put(root / "input" / "datasets" / "me" / "sure" / "test.csv")
    config = dataclasses.replace(ACSE, pseudo_labels=Path("test.csv"))
    assert prepare_session(config, root, root).pseudo_labels == path


def test_two_attached_runs_of_the_name_are_an_error(root: Path) -> None:
    attach_run(root, ACSE)
    attach_run(root, ACSE, "another")
    with pytest.raises(UserError, match="2 attached outputs hold a run first"):
        prepare_session(ACSE, root, root)


@pytest.mark.parametrize(("wanted", "hours", "left"), [(None, 0, 700), (30, 0, 30), (900, 2, 580)])
def test_the_time_limit_is_what_is_left_of_the_session(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: float | None,
    hours: float,
    left: float,
) -> None:
    monkeypatch.setenv("XRAYCOMP_STARTED", repr(time.monotonic() - 3600 * hours))
    config = dataclasses.replace(PHANTOM, time_limit=wanted)
    limit = prepare_session(config, tmp_path, tmp_path).time_limit
    assert limit == pytest.approx(left, abs=0.1)


def test_a_rehearsal_is_one_epoch_of_whole_batches() -> None:
    config = TrainConfig(epochs=50, batch_size=64, accumulate=2)
    assert (shorten(config, 400).epochs, shorten(config, 400).batch_size) == (1, 64)
    small = shorten(config, 60)
    assert (small.batch_size, small.accumulate) == (15, 1)
    assert shorten(config, 4).batch_size == 2
    assert shorten(config, 400).folds == 0
    folds = shorten(TrainConfig(folds=5, batch_size=64), 160)
    assert (folds.folds, folds.fold, folds.batch_size) == (2, None, 40)
    assert shorten(TrainConfig(folds=5, fold=3), 160).fold == 1
    assert shorten(TrainConfig(folds=5, fold=0), 160).fold == 0
    staged = TrainConfig(stages="head:0.01:3 layer4:0.003:20 all:0.001:1")
    assert shorten(staged, 400).stages == "head:0.01:1 layer4:0.003:1 all:0.001:1"


def test_a_rehearsal_leaves_out_only_what_is_rare_among_its_few_images() -> None:
    config = TrainConfig(min_count=1000)
    assert [shorten(config, images).min_count for images in (40, 160, 1000)] == [0, 1, 10]
    assert shorten(TrainConfig(min_count=3), 1000).min_count == 3
    assert shorten(TrainConfig(), 1000).min_count == 0


def test_too_large_an_output_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "runs" / "a" / "large", "x" * 1001)
    check_output_size(tmp_path, limit=1001)
    with pytest.raises(UserError, match="Kaggle keeps 20 GB"):
        check_output_size(tmp_path, limit=1000)


def test_a_gpu_that_was_asked_for_has_to_be_there() -> None:
    if torch.cuda.is_available():
        check_gpu(asked=True)
        return
    check_gpu(asked=False)
    with pytest.raises(UserError, match="asks for a GPU and there is none: check that the account"):
        check_gpu(asked=True)


SCRIPT = """
import dataclasses
from pathlib import Path
from xraycomp.console.errors import UserError
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session
import os

@dataclasses.dataclass(frozen=True)
class Run:
    path: Path

def train(config):
    run = config.runs_dir / "first"
    run.mkdir(parents=True)
    (run / "checkpoint.pt").write_text("kept")
    if os.environ.get("FAIL"):
        raise UserError("The loss is no number.")
    (run / "submission.csv").write_text("id,target\\n")
    print("time limit", config.time_limit, "data", config.data)
    return Run(run)

if __name__ == "__main__":
    run_session(train, TrainConfig(competition="phantom", name="first"))
"""


@pytest.fixture
def run_script(
    tmp_path: Path, environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    script = put(tmp_path / "script.py", SCRIPT)

    def run(*flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), *flags],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


Script = Callable[..., subprocess.CompletedProcess[str]]


def on_kaggle(tmp_path: Path, **more: str) -> dict[str, str]:
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    root = str(tmp_path / "kaggle")
    return {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "XRAYCOMP_KAGGLE_ROOT": root, **more}


def test_off_kaggle_a_session_is_just_the_training(tmp_path: Path, run_script: Script) -> None:
    done = run_script()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "time limit None data None\n"
    assert (tmp_path / "runs" / "first" / "submission.csv").is_file()
    assert not (tmp_path / "submission.csv").exists()
    done = run_script("--epochs", "3")
    assert done.returncode == 1
    assert "takes no flags" in done.stderr


def test_on_kaggle_the_submission_lies_where_kaggle_looks(
    tmp_path: Path, run_script: Script
) -> None:
    done = run_script(**on_kaggle(tmp_path))
    assert done.returncode == 0, done.stderr
    working = tmp_path / "kaggle" / "working"
    assert (working / "submission.csv").read_text() == "id,target\n"
    assert sorted(path.name for path in working.iterdir()) == ["runs", "submission.csv"]
    said = done.stdout.splitlines()
    assert said[-1] == f"{working} holds 0.0 MB in 3 files."
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_says_so_in_one_sentence_and_keeps_its_checkpoint(
    tmp_path: Path, run_script: Script, one_sentence: Callable[[str], str]
) -> None:
    done = run_script(**on_kaggle(tmp_path, FAIL="1"))
    assert done.returncode == 1
    assert one_sentence(done.stderr) == "The loss is no number."
    assert (tmp_path / "kaggle/working/runs/first/checkpoint.pt").read_text() == "kept"


def test_a_gpu_that_is_missing_ends_the_run_before_it_begins(
    tmp_path: Path, run_script: Script, one_sentence: Callable[[str], str]
) -> None:
    done = run_script(**on_kaggle(tmp_path, XRAYCOMP_GPU="1", CUDA_VISIBLE_DEVICES=""))
    assert done.returncode == 1
    assert "asks for a GPU and there is none" in one_sentence(done.stderr)
    assert not (tmp_path / "kaggle" / "working" / "runs").exists()


def test_a_second_session_goes_on_where_the_first_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "kaggle"
    for name, value in on_kaggle(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.setattr(logging.getLogger("xraycomp"), "handlers", [])
    caplog.set_level("INFO", "xraycomp")
    draw_slice(load_competition("phantom"), root / "input" / "phantom", 100, 10, size=32)
    config = dataclasses.replace(PHANTOM, arch="squeezenet1_1", image_size=32, epochs=2)
    with pytest.raises(SystemExit) as stop:
        run_session(train, dataclasses.replace(config, time_limit=0.01))
    assert stop.value.code == 0, caplog.text
    assert "Time limit reached" in caplog.text
    (root / "input" / "notebooks" / "me").mkdir(parents=True)
    (root / "working").rename(root / "input" / "notebooks" / "me" / "earlier")
    (root / "working").mkdir()
    with pytest.raises(SystemExit) as stop:
        run_session(train, config)
    assert stop.value.code == 0, caplog.text
    assert "Continuing the attached run" in caplog.text
    rows = (root / "working/runs/first/metrics.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert (root / "working" / "submission.csv").is_file()


SEARCH = """
import sys
from functools import partial
from xraycomp.remote.session import run_session
from xraycomp.studies.config import SearchConfig
from xraycomp.studies.searching import search, settings_for

if __name__ == "__main__":
    asked = SearchConfig("flips", "SPACE", trials=TRIALS)
    run_session(partial(search, asked), settings_for(asked, "phantom", image_size=32))
    sys.exit("run_session returned")
"""


def search_in_session(tmp_path: Path, environment: dict[str, str], trials: int) -> list[int]:
    """A session of a search that is to have so many trials; which of them it did."""
    space = put(
        tmp_path / "flips.toml",
        """
[fixed]
arch = "squeezenet1_1"
epochs = 1
[space]
seed = {values = [0, 1, 2]}
""",
    )
    text = SEARCH.replace("SPACE", str(space)).replace("TRIALS", str(trials))
    root = tmp_path / "kaggle"
    before = listing_of(root / "input")
    done = subprocess.run(
        [sys.executable, str(put(tmp_path / "script.py", text))],
        cwd=root / "working",
        env={**environment, "KAGGLE_KERNEL_RUN_TYPE": "Batch", "XRAYCOMP_KAGGLE_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert listing_of(root / "input") == before
    began = [line for line in done.stdout.splitlines() if line.startswith("Trial ")]
    return [int(line.split()[1]) for line in began if " of " in line]


def test_a_search_goes_on_in_the_next_session_with_what_is_attached(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    root = tmp_path / "kaggle"
    draw_slice(load_competition("phantom"), root / "input" / "phantom", 60, 6, size=32)
    (root / "working").mkdir()
    assert search_in_session(tmp_path, environment, 2) == [0, 1]
    first = json.loads((root / "working/runs/flips/study.json").read_text())["trials"]
    assert [trial["state"] for trial in first] == ["complete", "complete", "waiting"]
    (root / "input" / "notebooks" / "me").mkdir(parents=True)
    earlier = (root / "working").rename(root / "input" / "notebooks" / "me" / "earlier")
    (root / "working").mkdir()
    assert search_in_session(tmp_path, environment, 3) == [2]
    second = json.loads((root / "working/runs/flips/study.json").read_text())["trials"]
    assert second[:2] == first[:2]
    assert [trial["params"]["seed"] for trial in second] == [0, 1, 2]
    assert {trial["state"] for trial in second} == {"complete"}
    for trial in first[:2]:
        ours, theirs = (
            place / "runs/flips" / trial["run"] for place in (root / "working", earlier)
        )
        assert (ours / "best.pt").read_bytes() == (theirs / "best.pt").read_bytes()
    # A kernel that worked beside it and did the third trial too is no double.
    earlier.rename(root / "input" / "notebooks" / "me" / "first")
    (root / "working").rename(root / "input" / "notebooks" / "me" / "second")
    (root / "working").mkdir()
    assert search_in_session(tmp_path, environment, 3) == []
    assert json.loads((root / "working/runs/flips/study.json").read_text())["trials"] == second
