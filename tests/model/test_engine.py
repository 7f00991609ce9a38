"""The training loop on networks small enough to compute by hand what it should do."""

import itertools
import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from xraycomp.console.errors import Stopped, UserError
from xraycomp.data.batches import ImageSet
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model.checkpoint import read_checkpoint, restore_state
from xraycomp.model.deadline import Deadline
from xraycomp.model.inference import predict_probs
from xraycomp.model.state import start_state
from xraycomp.model.stem import GrayModel

CPU = torch.device("cpu")
CLASSES = ("top", "below", "none")


def weights_of(model):
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def after_each_step(state, note):
    """Call ``note(number of the step)`` whenever the optimizer has moved."""
    steps = iter(range(1, 10_000))
    state.optimizer.register_step_post_hook(lambda *_: note(next(steps)))


def log_loss(model, films, config, weights=(1.0, 1.0, 1.0)):
    """Mean over images of the weighted negative log probability, by another way than training."""
    probs = predict_probs(model, films, config)
    true = probs[np.arange(len(films)), films.targets.argmax(axis=1)]
    return float((-np.log(true) * np.array(weights)[films.targets.argmax(axis=1)]).mean())


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (2, 4), (1, 8)])
def test_accumulated_gradients_equal_those_of_the_large_batch(begin, batch_size, accumulate):
    """True for networks without batch norm only.

    Batch norm takes its mean and deviation from one part at a time, and moves its running
    statistics once a part: there, accumulating is not the large batch but several small ones.
    """
    at_once, go, run = begin("at_once", batch_size=8)
    go()
    in_parts, go, other = begin("in_parts", batch_size=batch_size, accumulate=accumulate)
    go()
    for key, value in at_once.model.state_dict().items():
        torch.testing.assert_close(in_parts.model.state_dict()[key], value, atol=2e-5, rtol=0)
    losses = [folder.epochs()["train_loss"].iloc[0] for folder in (run, other)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_learnable_task_is_learned(begin, toy):
    state, go, run = begin(epochs=8, lr=0.05)
    assert go()
    table = run.epochs()
    assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0] / 2
    assert table["val_loss"].iloc[-1] < 0.5
    assert table["val_accuracy"].iloc[-1] > 0.95
    assert state.epoch == 8


def test_the_row_of_an_epoch_says_what_sklearn_says(begin, toy, plain_config):
    state, go, run = begin(epochs=2, lr=0.05)
    go()
    val = toy[1]
    probs = predict_probs(state.model, val, plain_config())
    row = run.epochs().iloc[-1]
    accuracy = accuracy_score(val.targets.argmax(axis=1), probs.argmax(axis=1))
    assert row["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert row["val_loss"] == pytest.approx(log_loss(state.model, val, plain_config()), abs=1e-6)


def test_averaged_weights_equal_the_average_by_hand(begin):
    state, go, run = begin(epochs=2, lr=0.05, ema_decay=0.6)
    average = weights_of(state.model)
    seen = []
    after_each_step(state, lambda _: seen.append(weights_of(state.model)))
    go()
    assert len(seen) == 24
    decays = [min(0.6, (1 + t) / (10 + t)) for t in range(24)]
    assert decays[11] < 0.6 == decays[13]
    for decay, weights in zip(decays, seen, strict=True):
        average = {key: decay * average[key] + (1 - decay) * weights[key] for key in average}
    kept = read_checkpoint(run.checkpoint)["ema"]
    for key, value in average.items():
        torch.testing.assert_close(state.judged.state_dict()[key], value, atol=1e-6, rtol=0)
        torch.testing.assert_close(kept[key], value, atol=1e-6, rtol=0)
        assert not torch.equal(value, seen[-1][key])


def test_statistics_of_batch_norm_are_averaged_too(begin, tiny_net):
    net = tiny_net()
    net.body.insert(1, nn.BatchNorm2d(8))
    state, go, _ = begin(net=net, ema_decay=0.1)
    seen = []
    after_each_step(state, lambda _: seen.append(state.model.body[1].running_mean.clone()))
    go()
    average = torch.zeros(8)
    for mean in seen:
        average = 0.1 * average + 0.9 * mean
    torch.testing.assert_close(state.judged.body[1].running_mean, average, atol=1e-6, rtol=0)


def test_the_averaged_network_is_the_one_that_is_judged_and_kept(begin, toy, plain_config):
    state, go, run = begin(epochs=1, lr=0.05, ema_decay=0.9)
    go()
    averaged = log_loss(state.ema, toy[1], plain_config())
    assert run.epochs()["val_loss"].iloc[0] == pytest.approx(averaged, abs=1e-6)
    assert averaged != pytest.approx(log_loss(state.model, toy[1], plain_config()), abs=1e-3)
    for key, value in read_checkpoint(run.best)["model"].items():
        assert torch.equal(value, state.ema.state_dict()[key])


def planted(scores):
    """A judge that gives the epochs these scores, one after the other."""
    rest = iter(scores)

    def score(labels, probs):
        value = next(rest)
        return {"val_accuracy": value, "val_macro_f1": value, "val_auroc": value}

    return score


@pytest.mark.parametrize(
    ("patience", "scores", "epochs", "best"),
    [
        (1, [0.5, 0.6, 0.55, 0.9], 3, 2),
        (2, [0.5, 0.6, 0.55, 0.6, 0.9], 4, 2),
        (2, [0.5, 0.4, 0.6, 0.4, 0.5, 0.9], 5, 3),
        (3, [0.9, 0.1, 0.1, 0.1, 0.1], 4, 1),
        (0, [0.9, 0.1, 0.1, 0.1, 0.1, 0.1], 6, 1),
    ],
)
def test_training_stops_when_nothing_got_better_for_long_enough(
    begin, patience, scores, epochs, best
):
    _, go, run = begin(epochs=len(scores), patience=patience)
    assert go(planted(scores))
    table = run.epochs()
    assert list(table["epoch"]) == list(range(1, epochs + 1))
    assert read_checkpoint(run.best)["epoch"] == best


@pytest.mark.parametrize("monitor", ["val_macro_f1", "val_auroc", "val_accuracy", "val_loss"])
def test_the_kept_epoch_is_the_best_in_the_table(begin, monitor):
    scores = {
        "val_macro_f1": iter([0.1, 0.2, 0.4, 0.3]),
        "val_auroc": iter([0.1, 0.4, 0.3, 0.4]),  # of two equals the first
        "val_accuracy": iter([0.9, 0.1, 0.2, 0.3]),
    }
    state, go, run = begin(epochs=4, lr=1.0, schedule="constant", warmup_epochs=0, monitor=monitor)
    at_end = {}

    def score(labels, probs):
        at_end[len(at_end) + 1] = weights_of(state.model)
        return {name: next(values) for name, values in scores.items()}

    go(score)
    table = run.epochs()
    column = -table[monitor] if monitor == "val_loss" else table[monitor]
    best = int(table["epoch"][column.idxmax()])
    kept = read_checkpoint(run.best)
    assert kept["epoch"] == best
    for key, value in kept["model"].items():
        assert torch.equal(value, at_end[best][key])


def test_a_rate_far_too_high_stops_with_a_sentence_that_names_it(begin):
    _, go, run = begin(lr=1e30, clip_grad=0, warmup_epochs=0)
    with pytest.raises(UserError) as caught:
        go()
    assert str(caught.value) == (
        "The loss became nan in epoch 1. No checkpoint had been saved yet; "
        "try a lower --lr than 1e+30."
    )
    assert not run.checkpoint.exists()
    assert not run.best.exists()


@pytest.mark.parametrize("step", [14, 24], ids=["in the middle", "in the last step"])
def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(begin, step):
    """A weight is spoilt in the second epoch; its last step shows in the validation alone."""
    state, go, run = begin(epochs=3, lr=0.05)

    def spoil(number):
        if number == step:
            with torch.no_grad():
                next(state.model.parameters()).fill_(float("nan"))

    after_each_step(state, spoil)
    with pytest.raises(
        UserError, match=r"loss became nan in epoch 2\. The last good check"
    ) as said:
        go()
    assert str(run.checkpoint) in str(said.value)
    assert "try a lower --lr than 0.05" in str(said.value)
    assert len(run.epochs()) == 1
    for path in (run.checkpoint, run.best):
        content = read_checkpoint(path)
        assert content["epoch"] == 1
        assert all(value.isfinite().all() for value in content["model"].values())


def largest_step(begin, name, **changes):
    state, go, _ = begin(name, momentum=0, weight_decay=0, schedule="constant", **changes)
    path = [weights_of(state.model)]
    after_each_step(state, lambda _: path.append(weights_of(state.model)))
    go()
    moves = []
    for before, after in itertools.pairwise(path):
        moves.append(sum((after[key] - before[key]).square().sum() for key in after).sqrt().item())
    return max(moves)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_clipping_bounds_the_step(begin, accumulate):
    settings = {"lr": 0.5, "warmup_epochs": 0, "batch_size": 4, "accumulate": accumulate}
    assert largest_step(begin, "clipped", clip_grad=0.01, **settings) <= 0.5 * 0.01 * 1.001
    assert largest_step(begin, "free", clip_grad=0, **settings) > 0.5 * 0.01 * 5


def test_clipping_is_the_same_under_a_loss_scale_which_the_checkpoint_keeps(begin, plain_config):
    """As on GPUs that train in half precision."""
    plain, go, _ = begin("plain", lr=0.5, clip_grad=0.01)
    go()
    scaled, go, run = begin("scaled", lr=0.5, clip_grad=0.01)
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    go()
    for key, value in plain.model.state_dict().items():
        torch.testing.assert_close(scaled.model.state_dict()[key], value, atol=1e-6, rtol=0)
    other, _, _ = begin("other")
    other.scaler = torch.amp.GradScaler("cpu")
    restore_state(other, read_checkpoint(run.checkpoint), plain_config(), "checkpoint.pt")
    assert other.scaler.get_scale() == 64


def test_a_deadline_that_has_passed_leaves_a_best_and_a_way_to_go_on(begin):
    state, go, run = begin(epochs=2, lr=0.05)
    assert go(deadline=Deadline(time.monotonic())) is False
    kept = read_checkpoint(run.checkpoint)
    assert (kept["epoch"], kept["progress"]["step"]) == (0, 1)
    for key, value in read_checkpoint(run.best)["model"].items():
        assert torch.equal(value, state.model.state_dict()[key])
    assert not (run.path / "metrics.csv").exists()


def test_a_deadline_far_away_changes_nothing(begin):
    free, go, _ = begin("free", epochs=1)
    go()
    timed, go, _ = begin("timed", epochs=1)
    assert go(deadline=Deadline(time.monotonic() + 10_000, images_after=50)) is True
    for key, value in free.model.state_dict().items():
        assert torch.equal(timed.model.state_dict()[key], value)


def test_a_deadline_counts_what_has_to_be_predicted_afterwards(begin):
    """Half a minute would do for the training; for a billion test images it would not."""
    _, go, _ = begin("few", epochs=1)
    assert go(deadline=Deadline(time.monotonic() + 40, images_after=10)) is True
    _, go, _ = begin("many", epochs=1)
    assert go(deadline=Deadline(time.monotonic() + 40, images_after=10**9)) is False


def test_the_time_of_an_epoch_is_that_of_all_its_parts(begin):
    _, go, run = begin("stopped")
    assert go(deadline=Deadline(time.monotonic())) is False
    content = read_checkpoint(run.checkpoint)
    content["progress"]["seconds"] = 1000.0
    _, go, run = begin("resumed", resume_from=content)
    go()
    row = run.epochs().iloc[0]
    assert 1000 < row["seconds"] < 1100
    assert row["images_per_second"] == pytest.approx(96 / row["seconds"], abs=0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_last_validation_is_heard(begin, number):
    """Whoever presses Ctrl-C while the last epoch is judged does not wait for the predictions."""
    _, go, run = begin(epochs=2)
    epochs = []

    def score(labels, probs):
        epochs.append(1)
        if len(epochs) == 2:
            os.kill(os.getpid(), number)
        return epoch_scores(labels, probs)

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=r"^Stopped after epoch 2\.$") as caught:
        go(score)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert read_checkpoint(run.checkpoint)["epoch"] == 2
    assert len(run.epochs()) == 2


def images_shown(state):
    """A list that gets each batch of images that the network is trained on."""
    seen = []

    def look(model, args):
        if model.body.training:  # else it is judged, or its cost is counted
            seen.append(args[0].clone())

    state.model.register_forward_pre_hook(look)
    return seen


def test_each_epoch_step_part_and_seed_draws_its_own_changes(begin, make_set):
    films = make_set([np.full((18, 18), 128, dtype=np.uint8)] * 16, np.arange(16) % 3, 18)
    brightness = []
    for seed in (0, 1):
        state, go, _ = begin(
            f"seed {seed}",
            train=films,
            seed=seed,
            epochs=2,
            batch_size=4,
            accumulate=2,
            brightness=0.4,
        )
        seen = images_shown(state)
        go()
        assert len(seen) == 8
        brightness += [image.mean().item() for batch in seen for image in batch]
    assert len(np.unique(np.round(brightness, 5))) == 64


def test_each_epoch_and_seed_has_an_order_of_its_own(begin, make_set):
    films = [np.full((18, 18), 10 * n, dtype=np.uint8) for n in range(24)]
    films = make_set(films, np.arange(24) % 3, 18)
    orders = []
    for seed in (0, 1):
        state, go, _ = begin(f"seed {seed}", train=films, seed=seed, epochs=2)
        seen = images_shown(state)
        go()
        gray = torch.cat(seen)[:, 0, 8, 8] * state.model.std + state.model.mean
        numbers = (gray * 25.5).round().int()
        orders += [tuple(numbers[:24].tolist()), tuple(numbers[24:].tolist())]
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len(set(orders)) == 4


def test_mixed_images_have_the_mixed_labels(begin, make_set):
    """Of black films and white ones, each its own class, a mixture's gray tells its label."""
    films = [np.full((18, 18), 255 * (n % 2), dtype=np.uint8) for n in range(32)]
    films = make_set(films, np.arange(32) % 2, 18)
    torch.manual_seed(0)
    net = GrayModel(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), "tiny", 0.5, 0.25, 1)
    state, go, run = begin(net=net, train=films, val=films, lr=0.0, mixup=1.0, label_smoothing=0.0)
    seen = images_shown(state)
    go()
    images = torch.cat(seen)
    white = images[:, 0, 8, 8] * 0.25 + 0.5
    assert ((white > 0.1) & (white < 0.9)).any()
    with torch.no_grad():
        log_probs = net(images).log_softmax(dim=1)
    wanted = -((1 - white) * log_probs[:, 0] + white * log_probs[:, 1]).mean().item()
    assert run.epochs()["train_loss"].iloc[0] == pytest.approx(wanted, abs=1e-5)


def test_without_weighted_sampling_each_image_counts_once(begin, toy, plain_config):
    """At a rate of 0 the mean loss of the epoch is that of the whole training set."""
    state, go, run = begin(lr=0.0, weighted_sampling=False, label_smoothing=0.0)
    go()
    wanted = log_loss(state.model, toy[0], plain_config())
    assert run.epochs()["train_loss"].iloc[0] == pytest.approx(wanted, abs=1e-5)


@pytest.fixture
def uneven(toy):
    """64 of the toy films: 32, 24 and 8 of a class."""
    train = toy[0]
    rows = [
        np.flatnonzero(train.targets.argmax(axis=1) == label)[:n]
        for label, n in enumerate((32, 24, 8))
    ]
    chosen = np.concatenate(rows)
    return ImageSet(train.cache, train.rows[chosen], train.targets[chosen])


def test_class_weights_weigh_the_loss_as_scikit_learn_balances(begin, uneven, plain_config):
    state, go, run = begin(train=uneven, lr=0.0, class_weights=True, label_smoothing=0.0)
    go()
    weights = compute_class_weight(
        "balanced", classes=np.arange(3), y=uneven.targets.argmax(axis=1)
    )
    wanted = log_loss(state.model, uneven, plain_config(), weights)
    assert run.epochs()["train_loss"].iloc[0] == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(log_loss(state.model, uneven, plain_config()), abs=1e-3)


def test_weighted_sampling_shows_all_classes_alike(begin, uneven, plain_config):
    """A bias that always says class 2 costs as much as if a third of the images were of it."""
    state, go, run = begin(
        train=uneven, lr=0.0, weighted_sampling=True, label_smoothing=0.0, epochs=6
    )
    with torch.no_grad():
        last = state.model.body[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 0.0, 6.0]))
    go()
    found = run.epochs()["train_loss"].mean()
    miss = float(np.log(2 + np.exp(6)))
    assert found == pytest.approx(miss - 6 / 3, abs=0.5)
    assert found < miss - 6 * 8 / 64 - 0.5  # what it would cost without


def test_a_batch_larger_than_the_training_set_is_refused(toy, plain_config, tiny_net):
    with pytest.raises(UserError, match=r"--batch-size 40 \(times --accumulate 3\) is larger"):
        start_state(tiny_net(), 96, plain_config(batch_size=40, accumulate=3), CPU)


def test_what_fills_no_batch_is_left_for_another_epoch(begin):
    state, go, _ = begin(batch_size=36)
    steps = []
    after_each_step(state, steps.append)
    go()
    assert steps == [1, 2]


@pytest.mark.parametrize("change", ["model", "progress", "optimizer", "stage", "rng"])
def test_a_checkpoint_without_a_part_is_refused_in_one_sentence(begin, change, plain_config):
    state, go, run = begin()
    go()
    content = read_checkpoint(run.checkpoint)
    del content[change]
    with pytest.raises(UserError, match="cannot be continued with this one"):
        restore_state(state, content, plain_config(), "checkpoint.pt")


def test_a_checkpoint_of_another_network_is_refused(begin, tiny_net, plain_config):
    _, go, run = begin()
    go()
    other, _, _ = begin("other", net=tiny_net(classes=5))
    with pytest.raises(UserError, match="of another model or configuration"):
        restore_state(other, read_checkpoint(run.checkpoint), plain_config(), "checkpoint.pt")


def test_the_checkpoint_holds_what_the_design_names(begin):
    _, go, run = begin(ema_decay=0.5)
    go()
    content = read_checkpoint(run.checkpoint)
    names = "model optimizer scheduler scaler ema epoch best rng config"
    assert set(names.split()) <= content.keys()
    assert content["classes"] == list(CLASSES)
    assert json.loads(json.dumps(content["config"]))["ema_decay"] == 0.5
    names = "model mean std classes config epoch"
    assert set(read_checkpoint(run.best)) == set(names.split())
