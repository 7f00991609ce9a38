"""Training on findings of which an image may have several, none, or some that nobody knows."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from xraycomp.data.batches import ImageSet
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model import engine, showing
from xraycomp.model.epoch import plan_epoch
from xraycomp.model.inference import predict_probs

CPU = torch.device("cpu")
scores = partial(epoch_scores, multilabel=True)


@pytest.fixture(scope="module")
def films(make_set, draw_film):
    """96 films to learn from and 48 to judge by: a disc at the top, below, at both places or none.

    Whether there is one below is not known of a fifth of the films.
    """
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (144, 2)).astype(np.float32)
    drawn = []
    for top, below in targets:
        one, other = draw_film(0 if top else 2, rng), draw_film(1 if below else 2, rng)
        drawn.append(np.maximum(one, other))
    whole = make_set(drawn, np.zeros(144), 18)
    targets[rng.random(144) < 0.2, 1] = np.nan
    return tuple(
        ImageSet(whole.cache, whole.rows[part], targets[part])
        for part in (slice(96), slice(96, None))
    )


@pytest.fixture
def start(begin, films, tiny_net):
    """``begin`` on these films, with a network of two findings."""

    def go(name="run", train=None, **changes):
        net = tiny_net(classes=2)
        net.activation = "sigmoid"
        return begin(name, net, films[0] if train is None else train, films[1], **changes)

    return go


@pytest.mark.parametrize("loss", ["auto", "weighted_bce", "focal", "asymmetric"])
def test_findings_that_can_be_learned_are_learned(start, films, plain_config, loss):
    state, go, run = start(epochs=10, lr=0.1, loss=loss, label_smoothing=0.0)
    assert go(scores)
    table = run.epochs()
    assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0] / 2
    val = films[1]
    probs = predict_probs(state.model, val, plain_config())
    known = ~np.isnan(val.targets)
    assert (known.sum(axis=0) < [49, 48]).all()
    for column in range(2):
        rows = known[:, column]
        assert roc_auc_score(val.targets[rows, column], probs[rows, column]) > 0.9
    assert np.ptp(probs.sum(axis=1)) > 0.5  # rows are no distributions


def test_the_validation_loss_is_that_of_the_known_labels(start, films, plain_config):
    state, go, run = start(epochs=2, lr=0.05)
    go(scores)
    val = films[1]
    probs = predict_probs(state.model, val, plain_config())
    known = ~np.isnan(val.targets)
    wanted = log_loss(val.targets[known], probs[known])
    assert run.epochs()["val_loss"].iloc[-1] == pytest.approx(wanted, abs=1e-6)


def test_the_training_loss_is_the_mean_over_the_known_labels(start, films, plain_config):
    """At a rate of 0, with the whole training set as one batch."""
    state, go, run = start(lr=0.0, label_smoothing=0.0, batch_size=96)
    go(scores)
    train = films[0]
    probs = predict_probs(state.model, train, plain_config())
    known = ~np.isnan(train.targets)
    wanted = log_loss(train.targets[known], probs[known])
    assert run.epochs()["train_loss"].iloc[0] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("loss", ["bce", "weighted_bce", "focal", "asymmetric"])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (1, 8)])
def test_accumulated_gradients_equal_those_of_the_large_batch(start, batch_size, accumulate, loss):
    """Though the parts have different numbers of known labels. Without batch norm, as always."""
    whole, go, run = start("at_once", batch_size=8, loss=loss)
    go(scores)
    parts, go, other = start("in_parts", batch_size=batch_size, accumulate=accumulate, loss=loss)
    go(scores)
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[key], value, atol=2e-5, rtol=0)
    losses = [folder.epochs()["train_loss"].iloc[0] for folder in (run, other)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_shares_of_several_processes_weigh_by_their_known_labels(
    start, films, plain_config, monkeypatch
):
    """The mean over the processes is the gradient of the whole batch."""

    def gradients(name, part, processes):
        state, _, run = start(name)
        found = []
        monkeypatch.setattr(showing, "shard", lambda n: part)
        monkeypatch.setattr(engine, "world_size", lambda: processes)
        monkeypatch.setattr(
            engine, "reduce_gradients", lambda all_: found.extend(p.grad.clone() for p in all_)
        )
        loop = engine.Loop(state, *films, plain_config(), run, scores)
        plan = plan_epoch(films[0], None, plain_config(), 0, torch.device("cpu"))
        first, second = plan.n_known[:4].sum(), plan.n_known[4:8].sum()
        assert first != second  # else a plain mean would do
        loss = loop.step(plan, loop.blocks(plan))
        return [*found, loss]

    whole = gradients("whole", slice(0, 8), 1)
    halves = [gradients(f"half {n}", slice(4 * n, 4 * n + 4), 2) for n in (0, 1)]
    for wanted, one, other in zip(whole, *halves, strict=True):
        torch.testing.assert_close((one + other) / 2, wanted, atol=1e-6, rtol=1e-5)


def test_mixup_smoothing_and_averaging_go_with_unknown_labels(start):
    _, go, run = start(epochs=2, mixup=0.4, label_smoothing=0.1, ema_decay=0.9, accumulate=2)
    assert go(scores)
    assert np.isfinite(run.epochs()[["train_loss", "val_loss"]]).all(axis=None)


def test_a_training_set_of_unknown_labels_moves_nothing(start, films):
    train = films[0]
    blank = ImageSet(train.cache, train.rows, np.full_like(train.targets, np.nan))
    state, go, run = start(train=blank, weight_decay=0)
    before = {key: value.clone() for key, value in state.model.state_dict().items()}
    go(scores)
    for key, value in state.model.state_dict().items():
        assert torch.equal(value, before[key])
    assert run.epochs()["train_loss"].iloc[0] == 0


@pytest.mark.parametrize("tta", [(), ("mirror",)])
def test_probabilities_of_findings_are_sigmoids(start, films, plain_config, tta):
    state, _, _ = start()
    val = films[1]
    found = predict_probs(state.model, val, plain_config(), tta=tta)
    state.model.activation = "softmax"
    other = predict_probs(state.model, val, plain_config(), tta=())
    if not tta:
        # Of two logits a and b the softmax is the sigmoid of their difference.
        logits = np.log(found / (1 - found))
        np.testing.assert_allclose(
            1 / (1 + np.exp(logits[:, 1] - logits[:, 0])), other[:, 0], atol=1e-6
        )
    assert ((found > 0) & (found < 1)).all()
    assert np.abs(found.sum(axis=1) - 1).max() > 1e-3
