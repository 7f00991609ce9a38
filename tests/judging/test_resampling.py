"""The bootstrap against scikit-learn on the images that it draws."""

import numpy as np
import pytest
from sklearn import metrics as sk

from xraycomp.judging import resampling
from xraycomp.judging.figures import f1
from xraycomp.judging.intervals import delong, percentile
from xraycomp.judging.resampling import resample


def scored(n, k, seed, prevalence=0.3, digits=None, unknown=0.0):
    """Targets and scores that know something of them; few ``digits`` make ties."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < prevalence).astype(float)
    scores = 1 / (1 + np.exp(-rng.normal(size=(n, k)) - 1.2 * targets))
    targets[rng.random((n, k)) < unknown] = np.nan
    return targets, scores if digits is None else scores.round(digits)


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("unknown", [0, 0.3])
def test_resampled_figures_equal_scikit_learn_on_the_same_images(digits, unknown):
    targets, scores = scored(90, 3, seed=4, digits=digits, unknown=unknown)
    called = scores >= 0.6
    found = resample(targets, called, scores, 25, np.random.default_rng(5))
    counts, rng = found.counts, np.random.default_rng(5)
    for b in range(25):
        chosen = rng.integers(90, size=90)
        for c in range(3):
            y, s, p = targets[chosen, c], scores[chosen, c], called[chosen, c]
            known = ~np.isnan(y)
            y, s, p = y[known] == 1, s[known], p[known]
            outcomes = sk.confusion_matrix(y, p, labels=[False, True]).ravel().tolist()
            assert [part[b, c] for part in (counts.tn, counts.fp, counts.fn, counts.tp)] == outcomes
            assert f1(counts)[b, c] == pytest.approx(sk.f1_score(y, p))
            assert found.auroc[b, c] == pytest.approx(sk.roc_auc_score(y, s), abs=1e-12)
            average = sk.average_precision_score(y, s)
            assert found.average_precision[b, c] == pytest.approx(average, abs=1e-12)


def test_resampled_classes_of_which_each_image_has_one_go_together():
    """Macro F1 of each resample is that of its images, resample by resample."""
    rng = np.random.default_rng(3)
    labels = rng.choice(3, 80, p=[0.6, 0.3, 0.1])
    predicted = np.where(rng.random(80) < 0.7, labels, rng.choice(3, 80))
    targets, called = np.eye(3)[labels], np.eye(3, dtype=bool)[predicted]
    found = resample(targets, called, targets, 200, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    for row in f1(found.counts):
        chosen = rng.integers(80, size=80)
        options = {"average": None, "labels": range(3), "zero_division": np.nan}
        expected = sk.f1_score(labels[chosen], predicted[chosen], **options)
        np.testing.assert_allclose(row, expected)


def test_resamples_do_not_depend_on_the_chunk(monkeypatch):
    targets, scores = scored(50, 2, seed=6)

    def drawn():
        found = resample(targets, scores > 0.5, scores, 30, np.random.default_rng(7))
        return found.auroc, found.average_precision, found.counts.tp, found.counts.tn

    whole = drawn()
    for cells in (50 * 7, 1):
        monkeypatch.setattr(resampling, "CHUNK_CELLS", cells)
        for one, other in zip(whole, drawn(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-14)


def test_resampled_rankings_of_one_class_are_nan():
    targets = np.zeros((12, 3))
    targets[:, 1] = 1
    targets[0, 2] = 1
    scores = np.random.default_rng(0).random((12, 3))
    found = resample(targets, scores > 0.5, scores, 40, np.random.default_rng(0))
    assert np.isnan(found.auroc[:, :2]).all()
    assert np.isnan(found.average_precision[:, :2]).all()
    np.testing.assert_array_equal(np.isnan(found.auroc[:, 2]), found.counts.support[:, 2] == 0)


def test_bootstrap_and_delong_agree():
    targets, scores = scored(600, 2, seed=8)
    exact = delong(targets, scores)
    found = resample(targets, scores > 0.5, scores, 1000, np.random.default_rng(9))
    drawn = percentile(exact.value, found.auroc)
    np.testing.assert_allclose(drawn.low, exact.low, atol=0.01)
    np.testing.assert_allclose(drawn.high, exact.high, atol=0.01)
