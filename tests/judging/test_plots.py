"""Real PNG files, opened again."""

import errno
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from xraycomp.console.errors import UserError
from xraycomp.judging.plots import (
    PALETTE,
    plot_confusion,
    plot_reliability,
    plot_roc,
)
from xraycomp.judging.reliability import judge_calibration


def predictions(n, k):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % k
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.5
    probs = np.exp(logits)
    return labels, probs / probs.sum(axis=1, keepdims=True)


def draw_roc(path, labels, probs, names, title, **options):
    plot_roc(path, np.eye(probs.shape[1])[labels], probs, names, title, **options)


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has_colour(picture, hex_colour):
    colour = [int(hex_colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (picture == colour).all(axis=-1).any()


@pytest.mark.parametrize("k", [2, 5, 14])
def test_roc_has_a_curve_of_its_own_colour_for_each_class(tmp_path, k):
    labels, probs = predictions(20 * k, k)
    draw_roc(tmp_path / "roc.png", labels, probs, [f"class_{c}" for c in range(k)], "a title")
    picture = pixels(tmp_path / "roc.png")
    assert min(picture.shape[:2]) > 500
    assert [has_colour(picture, colour) for colour in PALETTE[:-1]] == [
        c < k for c in range(len(PALETTE) - 1)
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["roc.png"]


def test_each_curve_and_the_figures_beside_it_are_those_of_its_class(tmp_path, drawn):
    labels, probs = predictions(90, 3)
    draw_roc(tmp_path / "roc.png", labels, probs, ["a", "b", "c"], "title")
    (axes,) = drawn
    assert axes.get_xlabel().startswith("false-positive rate")
    assert axes.get_ylabel().startswith("true-positive rate")
    legend = axes.get_legend()
    for c, (line, sample, text) in enumerate(
        zip(axes.lines[1:], legend.get_lines(), legend.get_texts(), strict=True)
    ):
        of_class = labels == c, probs[:, c]
        np.testing.assert_allclose(line.get_xydata().T, roc_curve(*of_class)[:2])
        assert sample.get_color() == line.get_color() == PALETTE[c]
        name, figures = text.get_text().split("\n")
        value, low, high = map(float, re.findall(r"0\.\d{3}", figures))
        assert name == "abc"[c]
        assert value == pytest.approx(roc_auc_score(*of_class), abs=5e-4)
        assert low < value < high


def test_the_matrix_has_a_row_a_true_class_and_shares_of_that_row(tmp_path, drawn):
    confusion = np.array([[6, 2, 0], [1, 2, 1], [0, 0, 0]])
    plot_confusion(tmp_path / "confusion.png", confusion, ["a", "b", "c"], "title")
    (axes,) = drawn
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    share = [["75.0%", "25.0%", "0.0%"], ["25.0%", "50.0%", "25.0%"], ["n/a"] * 3]
    assert cells == {
        (column, row): f"{confusion[row, column]}\n{share[row][column]}"
        for row, column in np.ndindex(3, 3)
    }
    colours = [[0.75, 0.25, 0], [0.25, 0.5, 0.25], [0, 0, 0]]
    np.testing.assert_array_equal(axes.images[0].get_array(), colours)


@pytest.mark.parametrize("k", [2, 5, 14])
def test_confusion_is_drawn(tmp_path, k):
    labels, probs = predictions(20 * k, k)
    confusion = np.zeros((k, k), int)
    np.add.at(confusion, (labels, probs.argmax(axis=1)), 1)
    path = tmp_path / "confusion.png"
    plot_confusion(path, confusion, [f"class_{c}" for c in range(k)], "a title")
    picture = pixels(path)
    assert min(picture.shape[:2]) > 400
    assert picture.std() > 10
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]


def draw_reliability(path, targets, probs, *, multilabel, **options):
    report = judge_calibration(
        np.asarray(targets, float), probs, "a split", None, multilabel=multilabel, resamples=20
    )
    plot_reliability(path, report, "a title", **options)
    return report


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_reliability_diagram_has_a_point_a_bin_before_and_after(tmp_path, drawn, multilabel):
    labels, probs = predictions(200, 3)
    path = tmp_path / "reliability.png"
    report = draw_reliability(path, np.eye(3)[labels], probs, multilabel=multilabel)
    (axes,) = drawn
    points = [part for part in axes.collections if hasattr(part, "get_sizes")]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    for side, part, text in zip(("before", "after"), points, texts, strict=False):
        bins = report["reliability"][side]
        expected = [[b["confidence"], b["share"]["value"]] for b in bins]
        np.testing.assert_allclose(part.get_offsets(), expected)
        assert part.get_sizes().argmax() == np.argmax([b["n"] for b in bins])
        assert f"ECE {report[side]['ece']['value']:.3f} (" in text
    assert texts[0].startswith("as predicted")
    assert texts[1].startswith(f"at temperature {report['temperature']:.2f}")
    picture = pixels(path)
    assert min(picture.shape[:2]) > 500
    assert all(has_colour(picture, colour) for colour in PALETTE[:2])
    assert [file.name for file in tmp_path.iterdir()] == ["reliability.png"]


@pytest.mark.parametrize("known", [1.0, np.nan])
def test_the_reliability_of_one_image_or_of_nothing_is_drawn(tmp_path, known):
    targets = np.array([[known, np.nan]])
    path = tmp_path / "reliability.png"
    draw_reliability(path, targets, np.array([[0.7, 0.2]]), multilabel=True, note="phantoms")
    assert pixels(path).size


def test_the_note_is_printed(tmp_path):
    labels, probs = predictions(30, 2)
    draw_roc(tmp_path / "plain.png", labels, probs, ["a", "b"], "title")
    draw_roc(tmp_path / "noted.png", labels, probs, ["a", "b"], "title", note="phantoms")
    plot_confusion(tmp_path / "c_plain.png", [[1, 2], [3, 4]], ["a", "b"], "title")
    plot_confusion(tmp_path / "c_noted.png", [[1, 2], [3, 4]], ["a", "b"], "title", note="phantoms")
    for plain, noted in (("plain", "noted"), ("c_plain", "c_noted")):
        one, other = pixels(tmp_path / f"{plain}.png"), pixels(tmp_path / f"{noted}.png")
        assert one.shape != other.shape or (one != other).any()


def test_a_class_without_images_and_odd_names_are_drawn(tmp_path):
    labels, probs = predictions(40, 3)
    names = ["costs $5 or $6", "_hidden", "<b>"]
    draw_roc(tmp_path / "roc.png", np.minimum(labels, 1), probs, names, "50 $ and 60 $", note="$x$")
    plot_confusion(tmp_path / "confusion.png", [[5, 1, 0], [2, 2, 2], [0, 0, 0]], names, "$^$")
    assert pixels(tmp_path / "roc.png").size
    assert pixels(tmp_path / "confusion.png").size


def test_an_older_file_is_replaced_and_a_failure_leaves_it(tmp_path, monkeypatch):
    def half(figure, place, **options):
        place.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space")

    path = tmp_path / "confusion.png"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="shape"):
        plot_confusion(path, [[1, 2]], ["a", "b"], "title")
    assert path.read_bytes() == b"old"
    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="no space"):
        plot_confusion(path, [[1, 2], [3, 4]], ["a", "b"], "title")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["confusion.png"]
    monkeypatch.undo()
    plot_confusion(path, [[1, 2], [3, 4]], ["a", "b"], "title")
    assert pixels(path).size


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    labels, probs = predictions(30, 2)
    (tmp_path / "roc.png").mkdir()
    with pytest.raises(OSError):
        draw_roc(tmp_path / "roc.png", labels, probs, ["a", "b"], "title")
    assert [file.name for file in tmp_path.iterdir()] == ["roc.png"]


def test_roc_refuses_names_that_do_not_fit(tmp_path):
    labels, probs = predictions(30, 2)
    with pytest.raises(UserError, match="2 columns"):
        draw_roc(tmp_path / "roc.png", labels, probs, ["a"], "title")


def test_no_display_and_no_pyplot(tmp_path):
    """Whatever backend the user's environment asks for, drawing does not touch it."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from xraycomp.judging.plots import plot_confusion\n"
        f"plot_confusion(Path({str(tmp_path / 'c.png')!r}), [[1, 0], [0, 1]], ['a', 'b'], 't')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"MPLBACKEND": "tkagg"})
    assert pixels(tmp_path / "c.png").size


def test_unknown_labels_are_left_out_of_their_curve_and_one_kind_only_has_none(tmp_path):
    labels, probs = predictions(60, 15)
    names = [f"finding_{c}" for c in range(15)]
    targets = np.eye(15)[labels]
    targets[:, 14] = np.nan
    known = targets.copy()
    targets[30:, 0] = np.nan
    plot_roc(tmp_path / "all.png", known, probs, names, "title")
    plot_roc(tmp_path / "some.png", targets, probs, names, "title")
    one, other = pixels(tmp_path / "all.png"), pixels(tmp_path / "some.png")
    assert one.shape != other.shape or (one != other).any()


def test_a_long_title_does_not_push_the_matrix_aside(tmp_path):
    sizes = []
    for title in ("short", "a validation split of many words " * 5):
        plot_confusion(tmp_path / "c.png", np.eye(4) * 9, list("abcd"), title)
        with Image.open(tmp_path / "c.png") as image:
            sizes.append(image.size[0])
    assert sizes[1] < 1.6 * sizes[0]
