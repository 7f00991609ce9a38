"""Label doubts: planted wrong labels come first, right ones are left alone."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from xraycomp.console.errors import UserError
from xraycomp.judging import doubts
from xraycomp.judging.contact_sheet import ON_SHEET, plot_doubts
from xraycomp.judging.doubts import doubt_labels, format_doubts, pool_held_out, write_doubts

NAN = np.nan
NAMES = ("covid", "pneumonia", "normal")
COLUMNS = ["image", "label", "label_prob", "suggested", "suggested_prob"]


def mislabelled(n=300, wrong=12, seed=0):
    """Predictions that know the truth, and labels of which the first ``wrong`` are not it."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    exponents = np.exp(rng.normal(size=(n, 3)) + 6 * np.eye(3)[truth])
    labels = truth.copy()
    labels[:wrong] = (truth[:wrong] + 1 + np.arange(wrong) % 2) % 3
    return truth, labels, exponents / exponents.sum(axis=1, keepdims=True)


def test_planted_wrong_labels_come_first():
    truth, labels, probs = mislabelled()
    images = [f"x{n}" for n in range(300)]
    table = doubt_labels(images, np.eye(3)[labels], probs, NAMES, one_class=True)
    assert list(table.columns) == COLUMNS
    assert set(table["image"][:12]) == set(images[:12])
    first = table.set_index("image").loc["x0"]
    assert (first["label"], first["suggested"]) == (NAMES[labels[0]], NAMES[truth[0]])
    assert first["label_prob"] == probs[0, labels[0]]
    assert first["suggested_prob"] == probs[0, truth[0]]


def test_wrong_labels_planted_in_drawn_films_come_first(tmp_path, draw):
    """Out of fold, by a regression on pixels that has learned the wrong labels of other folds."""
    truth = np.arange(120) % 3
    films = [draw(tmp_path / f"{n}.png", kind, seed=n) for n, kind in enumerate(truth.tolist())]
    pixels = np.array([np.asarray(Image.open(path)).ravel() / 255 for path in films])
    planted = [3, 17, 44, 61, 85, 118]
    labels = truth.copy()
    labels[planted] = (labels[planted] + 1) % 3
    model = LogisticRegression(C=0.01)
    probs = cross_val_predict(model, pixels, labels, cv=5, method="predict_proba")
    table = doubt_labels(range(120), np.eye(3)[labels], probs, NAMES, one_class=True)
    assert set(table["image"][: len(planted)]) == set(planted)
    for row in table[: len(planted)].itertuples():
        assert (row.label, row.suggested) == (NAMES[labels[row.image]], NAMES[truth[row.image]])


def test_it_is_confident_learning_written_out_image_by_image():
    _, labels, probs = mislabelled(seed=3)
    means = [probs[labels == c, c].mean() for c in range(3)]
    margins = {}
    for n, label in enumerate(labels):
        margins[n] = (probs[n, label] - means[label]) - max(
            probs[n, c] - means[c] for c in range(3) if c != label
        )
    expected = [n for n in sorted(margins, key=margins.get) if margins[n] < 0]
    assert 12 <= len(expected) < 40
    table = doubt_labels(range(300), np.eye(3)[labels], probs, NAMES, one_class=True)
    assert list(table["image"]) == expected


def test_each_finding_is_doubted_by_itself_and_unknown_ones_never():
    rng = np.random.default_rng(1)
    truth = rng.random((400, 3)) < [0.4, 0.2, 0.05]
    # The rare finding never gets a high probability; its images are no doubts for that.
    high, low = np.array([0.8, 0.7, 0.3]), 0.06
    probs = np.where(truth, high, low) + rng.uniform(-0.02, 0.02, (400, 3))
    targets = truth.astype(float)
    planted, unknown = [], []
    for c, name in enumerate(NAMES):
        for had in (False, True):
            wrong, hidden = np.flatnonzero(truth[:, c] == had)[:2]
            targets[wrong, c], targets[hidden, c] = not had, NAN
            probs[[wrong, hidden], c] = (high[c] if had else low) + (0.03 if had else -0.03)
            label, suggested = (f"not {name}", name) if had else (name, f"not {name}")
            planted.append((int(wrong), label, suggested))
            unknown.append((int(hidden), name))
    table = doubt_labels(range(400), targets, probs, NAMES, one_class=False)
    rows = list(table[["image", "label", "suggested"]].itertuples(index=False, name=None))
    assert sorted(rows[:6]) == sorted(planted)
    assert not {(image, label.removeprefix("not ")) for image, label, _ in rows} & set(unknown)
    np.testing.assert_allclose(table["label_prob"] + table["suggested_prob"], 1)


def test_a_class_without_images_is_never_suggested():
    _, labels, probs = mislabelled()
    targets, kept = np.eye(3)[labels], labels < 2
    table = doubt_labels(range(kept.sum()), targets[kept], probs[kept], NAMES, one_class=True)
    assert set(table["suggested"]) == {"covid", "pneumonia"}
    alone = doubt_labels("ab", [[1], [1]], [[0.2], [0.9]], ["covid"], one_class=False)
    assert alone.empty
    assert list(alone.columns) == COLUMNS
    assert format_doubts(alone).startswith("No label is contradicted")


def test_a_model_that_tells_nothing_doubts_nothing():
    rng = np.random.default_rng(0)
    targets, probs = (rng.random((400, 3)) < 0.3).astype(float), rng.random((400, 3))
    probs[:, 1] = np.where(targets[:, 1] == 1, 0.6, 0.4) + rng.uniform(-0.2, 0.2, 400)
    table = doubt_labels(range(400), targets, probs, NAMES, one_class=False)
    assert {label.removeprefix("not ") for label in table["label"]} == {"pneumonia"}


def test_no_more_are_listed_than_anyone_looks_at(monkeypatch):
    monkeypatch.setattr(doubts, "MOST", 5)
    _, labels, probs = mislabelled()
    table = doubt_labels(range(300), np.eye(3)[labels], probs, NAMES, one_class=True)
    assert len(table) == 5
    assert format_doubts(table).startswith("5 or more labels are contradicted")


def test_values_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="one different name a column"):
        doubt_labels("ab", np.eye(2), np.eye(2), ["covid"], one_class=True)


def test_the_terminal_shows_the_first():
    _, labels, probs = mislabelled()
    table = doubt_labels(range(300), np.eye(3)[labels], probs, NAMES, one_class=True)
    lines = format_doubts(table, 3).splitlines()
    assert len(lines) == 4
    assert f"{len(table)} labels are contradicted" in lines[0]
    assert "the 3 most so" in lines[0]
    assert lines[1].startswith(f"{table['image'][0]}: labelled {table['label'][0]} (0.0")


@pytest.mark.parametrize("n", [1, 7, ON_SHEET])
def test_the_sheet_shows_each_film_with_what_is_said_of_it(tmp_path, drawn, n):
    rng = np.random.default_rng(0)
    films = [Image.fromarray(rng.integers(0, 255, (50 + i, 40), np.uint8)) for i in range(n)]
    row = ("a/folder/of/films/patient$1$_1", "not Pleural_Thickening", 0.01, "Mass", 0.99)
    plot_doubts(tmp_path / "d.png", pd.DataFrame([row] * 30, columns=COLUMNS), films, "$1$", "n")
    with Image.open(tmp_path / "d.png") as sheet:
        assert sheet.size[0] > 1500
    assert drawn[0].get_title() == "labelled not\nPleural_Thickening 0.01"
    assert drawn[0].texts[0].get_text() == "predicted Mass 0.99\n...r/of/films/patient$1$_1"
    assert np.array_equal(drawn[0].images[0].get_array(), np.asarray(films[0]))


def test_an_image_that_several_runs_held_out_gets_their_mean():
    first = ["a", "b", "c"], np.array([[1, 0], [0, NAN], [0, 1]]), np.full((3, 2), 0.2)
    second = ["d", "b"], np.array([[1, 1], [0, NAN]]), np.array([[0.9, 0.8], [0.4, 0.6]])
    images, targets, probs = pool_held_out([first, second])
    assert images == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(targets, [[1, 0], [0, NAN], [0, 1], [1, 1]])
    np.testing.assert_allclose(probs, [[0.2, 0.2], [0.3, 0.4], [0.2, 0.2], [0.9, 0.8]])
    second[1][1, 1] = 1
    with pytest.raises(UserError, match=r"1 images have other labels in one run .* \(b\)"):
        pool_held_out([first, second])


def test_the_sheet_of_earlier_doubts_does_not_stay(tmp_path, draw):
    rows = [("x", "covid", 0.01, "normal", 0.9), ("y", "covid", 0.02, "normal", 0.9)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    paths = {name: draw(tmp_path / f"{name}.png", size=(900, 500)) for name in "xy"}
    assert write_doubts(tmp_path, table, paths, "toy") == ["label_doubts.csv", "label_doubts.png"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "label_doubts.csv"), table)
    assert (tmp_path / "label_doubts.png").stat().st_size < 1_000_000
    assert write_doubts(tmp_path, table[:0], paths, "toy") == ["label_doubts.csv"]
    assert not (tmp_path / "label_doubts.png").exists()
    assert pd.read_csv(tmp_path / "label_doubts.csv").empty
