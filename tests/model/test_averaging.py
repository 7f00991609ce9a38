"""Averaged weights of the last epochs, and the batch-norm statistics made for them."""

import signal

import numpy as np
import pytest
import torch
from torch import nn

from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.signals import StopRequest
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model.augment import prepare
from xraycomp.model.averaging import finish_swa, recompute_batch_norm
from xraycomp.model.checkpoint import read_checkpoint
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import Deadline
from xraycomp.model.epoch import plan_epoch
from xraycomp.model.judge import Judge

CPU = torch.device("cpu")


def weights_of(model):
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


@pytest.fixture
def normed(tiny_net):
    """The tiny network with batch norm and dropout."""

    def make():
        net = tiny_net()
        net.body.insert(1, nn.BatchNorm2d(8))
        net.body.insert(6, nn.Dropout(0.2))
        return net

    return make


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_the_average_is_the_mean_of_the_last_epochs_by_hand(begin, normed):
    state, go, run = begin(net=normed(), epochs=4, lr=0.05, swa_epochs=3)
    seen = []
    assert go(watch=lambda row: seen.append((row, weights_of(state.model))))
    assert [row["epoch"] for row, _ in seen] == [1, 2, 3, 4, 5]
    for key, value in state.swa.state_dict().items():
        if "running" not in key and "tracked" not in key:
            wanted = torch.stack([weights[key] for _, weights in seen[1:4]]).mean(dim=0)
            torch.testing.assert_close(value, wanted, atol=1e-6, rtol=0)
    table = run.epochs()
    assert list(table["swa_epochs"]) == [0, 0, 0, 0, 3]
    assert table["train_loss"].isna().tolist() == [False] * 4 + [True]


def test_statistics_are_the_means_over_a_pass_as_training_shows_it(
    begin, normed, toy, plain_config
):
    net, config = normed(), plain_config(flip=True, mixup=0.4, brightness=0.1)
    before = torch.get_rng_state()
    recompute_batch_norm(net, toy[0], config)
    assert torch.equal(torch.get_rng_state(), before)
    plan = plan_epoch(toy[0], None, config, 1, CPU)
    means, variances = [], []
    for start in range(0, 96, 8):
        part = slice(start, start + 8)
        places = plan.places(part)
        films = torch.from_numpy(toy[0].cache.gather(toy[0].rows[plan.order[places]]))
        images = prepare(films, config, net.mean, net.std, plan.draws[torch.from_numpy(places)])
        with torch.no_grad():
            maps = net.body[0](plan.mix(images, part)).numpy()
        means.append(maps.mean(axis=(0, 2, 3)))
        variances.append(maps.var(axis=(0, 2, 3), ddof=1))
    np.testing.assert_allclose(net.body[1].running_mean, np.mean(means, axis=0), atol=1e-5)
    np.testing.assert_allclose(net.body[1].running_var, np.mean(variances, axis=0), rtol=1e-4)
    assert net.body[1].momentum == 0.1


def test_frozen_statistics_stay(normed, toy, plain_config):
    net = normed()
    before = weights_of(net)
    recompute_batch_norm(net, toy[0], plain_config(stages="head:0.1:1"))
    same(weights_of(net), before)


@pytest.mark.parametrize("better", [True, False])
def test_it_is_kept_where_it_is_better(begin, normed, monkeypatch, better):
    """A score that rises or falls with each look."""
    looks = []

    def score(targets, probs):
        looks.append(len(looks))
        return {**epoch_scores(targets, probs), "val_macro_f1": looks[-1] * (1 if better else -1)}

    state, go, run = begin(net=normed(), epochs=2, swa_epochs=2)
    first = []
    assert go(score, watch=lambda _: first.append(weights_of(state.model)))
    best = read_checkpoint(run.best)
    assert best["epoch"] == (3 if better else 1)
    same(best["model"], weights_of(state.swa) if better else first[0])
    assert state.best == (2 if better else 0)


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_a_run_stopped_after_any_epoch_goes_on_bit_for_bit(begin, normed, epoch):
    wanted, go, _ = begin("whole", net=normed(), epochs=3, swa_epochs=2, flip=True)
    go()

    class EnoughError(Exception):
        pass

    def stop(row):
        if row["epoch"] == epoch:
            raise EnoughError

    _, go, run = begin("stopped", net=normed(), epochs=3, swa_epochs=2, flip=True)
    with pytest.raises(EnoughError):
        go(watch=stop)
    saved = read_checkpoint(run.checkpoint)
    again, go, other = begin(
        "stopped", net=normed(), epochs=3, swa_epochs=2, flip=True, resume_from=saved
    )
    assert go()
    same(weights_of(again.swa), weights_of(wanted.swa))
    same(weights_of(again.model), weights_of(wanted.model))
    assert (again.best, again.best_epoch) == (wanted.best, wanted.best_epoch)
    assert list(other.epochs()["epoch"]) == [1, 2, 3, 4]
    kept = [
        read_checkpoint(other.path.with_name(name) / "best.pt") for name in ("whole", "stopped")
    ]
    same(kept[0]["model"], kept[1]["model"])


def test_ctrl_c_within_the_pass_stops_it(begin, normed, toy, plain_config, tmp_path):
    state, go, run = begin(net=normed(), epochs=1, swa_epochs=1)
    go()
    judge = Judge(toy[1], plain_config(swa_epochs=1), run, epoch_scores)
    with StopRequest() as stop:
        stop.signal_number = signal.SIGTERM
        with pytest.raises(Stopped, match="while averaging"):
            finish_swa(state, toy[0], judge, Deadline(), stop, None)


def test_without_time_there_is_no_average_and_training_is_not_finished(begin, normed, caplog):
    caplog.set_level("INFO", logger="xraycomp")
    _, go, run = begin(net=normed(), epochs=1, swa_epochs=1)
    deadline = Deadline(at=float("inf"))

    def now(_):
        object.__setattr__(deadline, "at", 0.0)

    assert not go(deadline=deadline, watch=now)
    assert "No time is left to average" in caplog.text
    assert len(run.epochs()) == 1


def test_it_is_over_the_epochs_of_the_last_stage(begin, normed):
    state, go, _ = begin(net=normed(), stages="head:0.1:2 all:0.05:2", swa_epochs=2)
    seen = []
    go(watch=lambda _: seen.append(weights_of(state.model)["body.0.weight"]))
    assert torch.equal(seen[0], seen[1]) and state.swa_epochs == 2
    average = (seen[2] + seen[3]) / 2
    torch.testing.assert_close(state.swa.state_dict()["body.0.weight"], average)
    with pytest.raises(UserError, match="from 0 to 2, the epochs of the last stage"):
        TrainConfig(stages="head:0.1:9 all:0.05:2", swa_epochs=3)


def test_training_that_ends_early_says_that_it_has_no_average(begin, normed, caplog):
    caplog.set_level("INFO", logger="xraycomp")
    worse = iter(range(100, 0, -1))
    _, go, run = begin(net=normed(), epochs=9, patience=1, swa_epochs=1)
    assert go(lambda t, p: {**epoch_scores(t, p), "val_macro_f1": next(worse)})
    assert "ended before the epochs that --swa-epochs averages" in caplog.text
    assert len(run.epochs()) == 2


def test_the_network_trained_is_not_changed_by_it(begin, normed):
    plain, go, _ = begin("plain", net=normed(), epochs=2)
    go()
    averaged, go, _ = begin("averaged", net=normed(), epochs=2, swa_epochs=2)
    go()
    same(weights_of(plain.model), weights_of(averaged.model))
