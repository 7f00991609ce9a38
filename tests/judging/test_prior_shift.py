"""Planted mixes of classes, of which the true probabilities are known."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition, Labelled
from xraycomp.judging.metrics import judge
from xraycomp.judging.prior_shift import fit_reference, format_shift, reestimate, show_shift

NAMES = ("a", "b", "c", "d")
VAL = np.array([0.5, 0.3, 0.15, 0.05])
ALIKE = np.full(4, 0.25)
CENTRES = np.random.default_rng(1).normal(size=(4, 3)) * 2


def competition(task="multiclass", classes=NAMES):
    train = Labelled("images", "labels.csv")
    return Competition("toy", "toy", "dataset", task, classes, "log_loss", train)


def draw(n, mix, seed):
    """Labels by ``mix``, and points about the centre of their class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, n, p=mix)
    return labels, CENTRES[labels] + rng.normal(size=(n, 3))


def posterior(points, mix, sharper=1.0):
    """The probabilities of who knows how images are drawn, with logits multiplied."""
    distances = ((points[:, None] - CENTRES) ** 2).sum(axis=-1)
    return softmax(sharper * (np.log(mix) - distances / 2), axis=1)


@pytest.mark.parametrize("mix", [[0.05, 0.15, 0.3, 0.5], [0.25] * 4, [0.9, 0.05, 0.03, 0.02]])
def test_a_planted_mix_is_recovered_and_the_probabilities_become_the_true_ones(mix):
    labels, points = draw(20_000, mix, seed=2)
    plain = posterior(points, VAL)
    found = reestimate(plain, VAL, multilabel=False)
    np.testing.assert_allclose(found.shares.value, np.bincount(labels) / 20_000, atol=0.03)
    np.testing.assert_allclose(found.probs.sum(axis=1), 1)
    np.testing.assert_allclose(found.probs.mean(axis=0), found.shares.value, atol=1e-5)
    assert found.chance.shape == (1,)
    assert found.chance[0] < 1e-6
    assert log_loss(labels, found.probs) < log_loss(labels, plain) - 0.05
    assert accuracy_score(labels, found.probs.argmax(axis=1)) > accuracy_score(
        labels, plain.argmax(axis=1)
    )
    assert np.abs(found.probs - posterior(points, np.array(mix))).mean() < 0.01


def test_without_a_shift_next_to_nothing_changes():
    labels, points = draw(20_000, VAL, seed=3)
    plain = posterior(points, VAL)
    found = reestimate(plain, VAL, multilabel=False)
    np.testing.assert_allclose(found.shares.value, VAL, atol=0.02)
    assert np.abs(found.probs - plain).mean() < 0.01
    assert log_loss(labels, found.probs) == pytest.approx(log_loss(labels, plain), abs=0.003)
    assert found.chance[0] > 0.05


def test_a_shift_by_chance_is_seldom_called_more_than_that():
    """The test holds its level: the statistic is that of chi-squared."""
    chances = [
        reestimate(posterior(draw(300, VAL, s)[1], VAL), VAL, multilabel=False).chance[0]
        for s in range(200)
    ]
    assert np.mean(np.array(chances) < 0.05) < 0.1
    assert 0.35 < np.mean(chances) < 0.65


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_intervals_hold_the_true_shares(multilabel):
    mix, held = np.array([0.1, 0.2, 0.3, 0.4]), []
    for seed in range(200):
        if multilabel:
            probs = probability(findings(300, mix, seed)[1], VAL)
        else:
            probs = posterior(draw(300, mix, seed)[1], VAL)
        found = reestimate(probs, VAL, multilabel=multilabel).shares
        held.append((found.low <= mix) & (mix <= found.high))
        assert (found.low <= found.value).all()
        assert (found.value <= found.high).all()
    assert (np.mean(held, axis=0) > 0.88).all()
    assert 0.92 < np.mean(held) < 0.98


def test_probabilities_that_were_trained_on_classes_drawn_alike_are_brought_onto_validation():
    """Too sure besides, as a network is."""
    labels, points = draw(20_000, VAL, seed=4)
    trained = posterior(points, ALIKE, sharper=1.7)
    reference = fit_reference(competition(), np.eye(4)[labels], trained)
    np.testing.assert_allclose(reference.shares, np.bincount(labels) / 20_000)
    fitting = reference.apply(trained)
    np.testing.assert_allclose(fitting.mean(axis=0), reference.shares, atol=1e-4)
    assert np.abs(fitting - posterior(points, VAL)).mean() < 0.01
    labels, points = draw(20_000, VAL[::-1], seed=5)
    trained = posterior(points, ALIKE, sharper=1.7)
    found = reestimate(reference.apply(trained), reference.shares, multilabel=False)
    np.testing.assert_allclose(found.shares.value, np.bincount(labels) / 20_000, atol=0.03)
    assert log_loss(labels, found.probs) < log_loss(labels, trained) - 0.02
    wrong = reestimate(trained, VAL, multilabel=False)  # as if they fitted the labels' frequency
    assert np.abs(wrong.shares.value - VAL[::-1]).max() > 0.05


def test_the_reference_of_one_class_an_image_has_the_smallest_log_loss():
    labels, points = draw(500, VAL, seed=6)
    trained = posterior(points, ALIKE, sharper=0.6)
    reference = fit_reference(competition(), np.eye(4)[labels], trained)
    best = log_loss(labels, reference.apply(trained))
    rng = np.random.default_rng(0)
    for _ in range(50):
        scale, bias = reference.scale, reference.bias
        logits = scale * (1 + rng.normal() / 20) * np.log(trained) + bias + rng.normal(size=4) / 20
        assert -log_softmax(logits, axis=1)[np.arange(500), labels].mean() >= best


def findings(n, shares, seed, unknown=0.0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, len(shares))) < shares).astype(float)
    points = rng.normal(size=targets.shape) + 2 * targets
    targets[rng.random(targets.shape) < unknown] = np.nan
    return targets, points


def probability(points, shares):
    """Of a finding whose images lie 2 from the others, both with standard deviation 1."""
    return expit(2 * points - 2 + np.log(shares) - np.log1p(-np.asarray(shares)))


def test_findings_are_each_for_itself():
    before, after = np.array([0.3, 0.1, 0.2, 0.05]), np.array([0.1, 0.1, 0.6, 0.3])
    targets, points = findings(20_000, after, seed=7)
    plain = probability(points, before)
    found = reestimate(plain, before, multilabel=True)
    np.testing.assert_allclose(found.shares.value, after, atol=0.03)
    assert found.chance.shape == (4,)
    assert (found.chance[[0, 2, 3]] < 1e-6).all()
    assert found.chance[1] > 0.01
    for c in (0, 2, 3):
        alone = reestimate(plain[:, [c]], before[[c]], multilabel=True)
        np.testing.assert_allclose(alone.shares.value[0], found.shares.value[c], atol=1e-4)
        assert log_loss(targets[:, c], found.probs[:, c]) < log_loss(targets[:, c], plain[:, c])
    np.testing.assert_allclose(found.probs[:, 1], plain[:, 1], atol=0.05)


def test_the_estimated_share_is_the_most_likely_one():
    before, after = 0.3, 0.1
    _, points = findings(300, [after], seed=8)
    plain = probability(points, [before])
    found = reestimate(plain, np.array([before]), multilabel=True).shares.value[0]

    def surprise(share):
        seen = plain * share / before + (1 - plain) * (1 - share) / (1 - before)
        return -np.log(seen).sum()

    best = minimize_scalar(surprise, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
    assert found == pytest.approx(best, abs=1e-4)


def test_the_reference_of_a_finding_is_platt_s():
    """With one finding: scikit-learn's logistic regression on its log-odds."""
    targets, points = findings(600, [0.2], seed=9, unknown=0.2)
    trained = probability(points, [0.5])
    reference = fit_reference(competition("multilabel", ("a",)), targets, trained)
    known = ~np.isnan(targets[:, 0])
    logits = np.log(trained / (1 - trained))
    platt = LogisticRegression(C=np.inf, tol=1e-8).fit(logits[known], targets[known, 0])
    wanted = platt.predict_proba(logits)[:, 1]
    np.testing.assert_allclose(reference.apply(trained)[:, 0], wanted, atol=1e-4)
    assert reference.shares[0] == pytest.approx(targets[known].mean())


def test_a_finding_of_one_kind_only_in_validation_stays_as_it_is():
    shares = [0.3, 0.2, 0.4]
    targets, points = findings(500, shares, seed=10)
    targets[:, 1] = 0
    targets[:, 2] = np.nan
    toy = competition("multilabel", NAMES[:3])
    plain = probability(points, shares)
    reference = fit_reference(toy, targets, plain)
    np.testing.assert_array_equal(np.isnan(reference.shares), [False, True, True])
    found = reestimate(reference.apply(plain), reference.shares, multilabel=True)
    np.testing.assert_array_equal(found.probs[:, 1:], plain[:, 1:])
    rows = format_shift(toy.classes, plain, reference.shares, found).splitlines()
    assert rows[3].split() == ["b", "n/a", f"{plain[:, 1].mean():.3f}", "n/a", "n/a"]


def test_a_class_without_validation_images_is_refused_in_one_sentence():
    labels, points = draw(30, [0.5, 0.5, 0, 0], seed=11)
    with pytest.raises(UserError, match=r"no image of c, d\. Leave --prior-shift out"):
        fit_reference(competition(), np.eye(4)[labels], posterior(points, VAL))


def test_certain_probabilities_and_single_images_stay_numbers():
    certain = np.eye(4)[[0, 0, 1]]
    found = reestimate(certain, VAL, multilabel=False)
    np.testing.assert_allclose(found.shares.value, [2 / 3, 1 / 3, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found.probs, certain)
    one = reestimate(np.array([[0.4, 0.3, 0.2, 0.1]]), VAL, multilabel=False)
    assert np.isfinite(one.probs).all()
    assert one.chance[0] > 0.05  # one image tells nothing
    assert np.isnan(one.shares.low).all()
    found = reestimate(np.array([[0.0, 1.0]]), np.array([0.2, 0.2]), multilabel=True)
    np.testing.assert_allclose(found.shares.value, [0, 1])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_figures_are_shown_without_and_with_it(task):
    if task == "multiclass":
        labels, points = draw(800, VAL[::-1], seed=12)
        targets, probs = np.eye(4)[labels], posterior(points, VAL)
        val_labels, val_points = draw(800, VAL, seed=13)
        val = np.eye(4)[val_labels], posterior(val_points, VAL)
    else:
        targets, points = findings(800, VAL[::-1], seed=12)
        probs = probability(points, VAL)
        val_targets, val_points = findings(800, VAL, seed=13)
        val = val_targets, probability(val_points, VAL)
    toy = competition(task)
    reference = fit_reference(toy, *val)
    report = judge(toy, targets, probs, "test split", resamples=20)
    lines = show_shift(toy, targets, probs, reference, report).splitlines()
    shift = reestimate(reference.apply(probs), reference.shares, multilabel=task == "multilabel")
    after = judge(toy, targets, shift.probs, "test split", resamples=0)["overall"]["log_loss"]
    row = next(line for line in lines if line.startswith("log loss"))
    assert f" {report['overall']['log_loss']['value']:.3f} (" in row
    assert f" {after['value']:.3f} (" in row
    assert after["value"] < report["overall"]["log_loss"]["value"]
    assert any(line.startswith("accuracy") for line in lines) == (task == "multiclass")
    estimated = lines[2].split()
    assert estimated[:2] == ["a", f"{reference.shares[0]:.3f}"]
    assert estimated[3] == f"{shift.shares.value[0]:.3f}"
    assert max(map(len, lines)) <= 110
