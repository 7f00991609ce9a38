"""A labelled test split: from the flags to the run's manifest, metrics and predictions."""

import json
from pathlib import Path

import pandas as pd
import pytest

from xraycomp import predict, train
from xraycomp.console.errors import UserError

SMALL = "--image-size 16 --epochs 1 --batch-size 8 --device cpu --workers 1 --data set"


@pytest.fixture
def desk(tmp_path, draw_tree, monkeypatch):
    """A folder with the set ``set``: eleven images of each of three classes."""
    draw_tree(tmp_path / "set", per_class=11, n_test=0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_labelled_test_part_is_kept_apart_and_can_be_predicted(desk):
    parts = ["--test-fraction", "0.2", "--val-fraction", "0.3"]
    train.main([*SMALL.split(), *parts, "--name", "one"])
    run = Path("runs/one")
    manifest = pd.read_csv(run / "manifest.csv", keep_default_na=False)
    counts = pd.crosstab(manifest["label"], manifest["split"])
    assert (counts["test"] == 2).all()
    assert (counts["val"] == 3).all()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["split"] == "validation split, by image, 30 %, seed 0"
    assert not (run / "submission.csv").exists()
    predict.main(["--runs", "runs/one", "--split", "test"])
    table = pd.read_csv(run / "predictions/test.csv")
    assert list(table["image"]) == list(manifest["image"][manifest["split"] == "test"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--split-by", "official"], "needs an official test list"),
        (["--split-by", "chexnet", "--test-fraction", "0.1"], "contradict each other"),
        (["--test-fraction", "0.95"], "--test-fraction is 0.95"),
        (["--min-count", "5"], "set is multiclass; --no-finding-class"),
        (["--min-count", "-5"], "--min-count is -5; it must be 0 or more"),
    ],
)
def test_a_split_that_cannot_be_made_leaves_no_run(desk, flags, said):
    with pytest.raises(UserError, match=said):
        train.main([*SMALL.split(), *flags])
    assert not list((desk / "runs").glob("*"))
