"""The ledger as a file, and what it says about validation against leaderboard."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

from xraycomp.console.errors import UserError
from xraycomp.remote.ledger import (
    COLUMNS,
    append,
    find,
    read_ledger,
    read_validation,
    update,
)
from xraycomp.remote.standing import format_standing, standing
from xraycomp.remote.submissions import Submission

SLUG = "xray-demo"


def sent(ref, status="COMPLETE", public="0.75000", private="", error=""):
    return Submission(ref, "2026-11-21T05:00:00Z", "A.csv", "A", 10, status, public, private, error)


@pytest.fixture
def book(tmp_path):
    return tmp_path / "submissions/ledger.csv"


def planted(validation, public, metric="macro_f1"):
    """A ledger of runs a, b, c … with these scores; the interval is 0.05 to both sides."""
    table = pd.DataFrame("", index=range(len(validation)), columns=list(COLUMNS))
    table["competition"], table["metric"], table["status"] = SLUG, metric, "COMPLETE"
    table["run"] = [chr(ord("a") + n) for n in range(len(table))]
    table["ref"] = [str(n) for n in range(len(table))]
    table["val_score"] = [f"{value:.6f}" for value in validation]
    table["val_score_low"] = [f"{value - 0.05:.6f}" for value in validation]
    table["val_score_high"] = [f"{value + 0.05:.6f}" for value in validation]
    table["public_score"] = [f"{value:.6f}" for value in public]
    return table


def test_rows_are_appended_found_and_updated(book):
    assert read_ledger(book).empty
    append(book, {"competition": SLUG, "ref": "7", "sha256": "ab", "run": "A, B", "status": "X"})
    append(book, {"competition": SLUG, "ref": "77", "sha256": "cd"})
    update(book, sent(7, "COMPLETE", "0.75000"))
    update(book, sent(7, "COMPLETE", "", "0.70000"))  # a score that was there stays
    table = read_ledger(book)
    assert list(table.columns) == list(COLUMNS)
    [row] = find(table, competition=SLUG, sha256="ab").to_dict("records")
    assert (row["run"], row["status"]) == ("A, B", "COMPLETE")
    assert (row["public_score"], row["private_score"]) == ("0.75000", "0.70000")
    assert find(table, competition="other", sha256="ab").empty
    assert table["status"].tolist() == ["COMPLETE", ""]
    with pytest.raises(ValueError, match="no column runs"):
        append(book, {"runs": "A"})


def test_a_hand_edited_or_older_ledger_still_reads_and_keeps_its_own_columns(book):
    book.parent.mkdir()
    book.write_text("ref,note,competition,public_score\n7.0,mine,xray-demo, 0.5\n8,,xray-demo\n")
    append(book, {"competition": SLUG, "ref": "9"})
    table = read_ledger(book)
    assert table["ref"].tolist() == ["7", "8", "9"]
    assert table["note"].tolist() == ["mine", "", ""]
    assert table["public_score"].tolist() == ["0.5", "", ""]
    assert (table["run"] == "").all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a readable CSV table"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not a"),
        (b"a,b\n1,2\n", "is not a ledger"),
        (b"competition,ref,public_score\nx,1,0.5\nx,2,good\n", "line 3: public_score is 'good'"),
        (b'competition,ref\n"x,1\n', "not a readable CSV table"),
    ],
)
def test_a_damaged_ledger_is_one_sentence_and_stays_as_it_is(book, content, said):
    book.parent.mkdir()
    book.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        append(book, {"competition": SLUG})
    assert "ledger.csv" in str(error.value) and "\n" not in str(error.value)
    assert book.read_bytes() == content


def test_two_processes_lose_no_row(book, environment):
    code = (
        "import sys; from pathlib import Path; from xraycomp.remote.ledger import append\n"
        "for n in range(40): append(Path(sys.argv[1]), {'competition': 'x', 'ref': f'{n}', "
        "'run': sys.argv[2]})"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(book), name], env=environment)
        for name in ("one", "two")
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    table = read_ledger(book)
    assert table["run"].value_counts().to_dict() == {"one": 40, "two": 40}
    assert list(book.parent.glob("*.tmp")) == []


def test_the_metrics_of_a_run_become_columns(tmp_path):
    entry = {"value": 0.9, "low": 0.8, "high": 0.95}
    report = {
        "competition_slug": SLUG,
        "split": "validation split",
        "overall": {
            "accuracy": entry,
            "macro_f1": {**entry, "value": 0.89},
            "macro_auroc": {**entry, "low": None},
        },
        "competition": {
            "metric": "hard_label_auroc",
            "public": {**entry, "value": 0.91},
            "private": {**entry, "value": 0.92},
        },
    }
    (tmp_path / "metrics.json").write_text(json.dumps(report))
    slug, columns = read_validation(tmp_path)
    assert slug == SLUG and set(columns) <= set(COLUMNS)
    assert (columns["metric"], columns["val_score"]) == ("hard_label_auroc", "0.910000")
    assert (columns["val_private"], columns["val_accuracy_high"]) == ("0.920000", "0.950000")
    assert (columns["val_accuracy"], columns["val_macro_f1"]) == ("0.900000", "0.890000")
    assert columns["val_macro_auroc_low"] == ""
    for spoilt, said in (
        ({**report, "split": "training split (seen in training)"}, "not the validation split"),
        ({**report, "overall": {}}, "damaged"),
    ):
        (tmp_path / "metrics.json").write_text(json.dumps(spoilt))
        with pytest.raises(UserError, match=said):
            read_validation(tmp_path)


def test_the_correlation_is_scipys(tmp_path):
    rng = np.random.default_rng(0)
    validation = rng.uniform(0.8, 0.99, 12).round(6)
    public = (validation + rng.normal(0, 0.03, 12)).round(6)
    table = pd.concat([planted(validation, public), planted([0.9], [0.1])], ignore_index=True)
    table.loc[12, "competition"] = "another"
    found = standing(table, SLUG)
    assert found.pairs == 12
    assert found.spearman == pytest.approx(spearmanr(validation, public).statistic)
    assert found.pearson == pytest.approx(pearsonr(validation, public).statistic)
    assert found.rows["residual"].sum() == pytest.approx(0, abs=1e-9)
    assert found.rows["val_rank"].tolist() == (13 - pd.Series(validation).rank()).tolist()


def test_disagreements_are_named():
    table = planted([0.90, 0.92, 0.94, 0.96], [0.91, 0.92, 0.95, 0.80])
    found = standing(table, SLUG)
    assert found.rows["outside"].tolist() == [False, False, False, True]
    assert found.rows["public_rank"].tolist() == [3, 2, 1, 4]
    said = format_standing(found)
    assert "4 files: Spearman -0.200" in said
    slope, start = np.polyfit([0.90, 0.92, 0.94, 0.96], [0.91, 0.92, 0.95, 0.80], 1)
    below = start + slope * 0.96 - 0.80
    assert below > 0
    assert f"d: 1. by validation, 4. by public score, {below:.4f} below the line" in said
    assert "d: public score 0.800000 lies outside the validation interval 0.9600" in said
    assert "0.9200 (0.8700-0.9700)" in said
    found = standing(planted([0.90, 0.92], [0.94, 0.98]), SLUG)
    assert found.rows["outside"].tolist() == [False, True]


def test_a_lower_loss_is_better():
    found = standing(planted([0.2, 0.3, 0.4], [0.21, 0.31, 0.39], "log_loss"), SLUG)
    assert found.rows["val_rank"].tolist() == [1, 2, 3] == found.rows["public_rank"].tolist()
    assert found.spearman == pytest.approx(1)
    assert "rank differently" not in format_standing(found)


def test_what_is_no_pair_does_not_count(recwarn):
    table = planted([0.9, 0.91, 0.92, 0.93, 0.94], [0.9, 0.91, 0.92, 0.93, 0.94])
    table.loc[0, ["public_score", "status", "error"]] = ["", "ERROR", "wrong header"]
    table.loc[1, "metric"] = "accuracy"
    table.loc[[2, 3], "sha256"] = "the same file"
    found = standing(table, SLUG)
    assert found.pairs == 2 and found.spearman is None
    said = format_standing(found)
    assert "from 3 files with both scores on; there are 2" in said
    assert "a (0) could not be scored: wrong header" in said
    equal = standing(planted([0.9, 0.9, 0.9], [0.9, 0.8, 0.7]), SLUG)
    assert equal.pearson is None and "no correlation" in format_standing(equal)
    assert [str(item.message) for item in recwarn] == []
