"""Codes of drawn films: equal to what enters the head, kept, computed anew when they must be."""

import copy
import dataclasses
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xraycomp.console.errors import Stopped, UserError
from xraycomp.data.batches import ImageSet
from xraycomp.model import codes as codes_module
from xraycomp.model.checkpoint import load_best, read_checkpoint
from xraycomp.model.codes import build_codes, code_sets
from xraycomp.model.deadline import Deadline
from xraycomp.model.engine import Loop
from xraycomp.model.inference import predict_probs
from xraycomp.model.run import RunFolder
from xraycomp.model.zoo import create_model
from xraycomp.train import main

ARCH, N_FEATURES = "timm:resnet10t", 512
CLASSES = ("top", "below", "none")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model(ARCH, 3, hidden=(16, 8)).eval()


@pytest.fixture
def films(toy, tmp_path):
    """The toy set's cache in a folder of its own, so that no codes lie there yet."""
    cache = toy[0].cache
    folder = tmp_path / cache.folder.name
    folder.symlink_to(cache.folder)
    return dataclasses.replace(cache, folder=folder)


ROWS = np.arange(3, 50)


def test_codes_are_what_enters_the_head(model, films, plain_config):
    config = plain_config(batch_size=32)
    codes = build_codes(model, films, ROWS, config).gather(np.arange(len(ROWS)))
    assert (codes.shape, codes.dtype) == ((47, N_FEATURES), np.float32)
    pixels = torch.from_numpy(films.gather(ROWS)[:, 1:17, 1:17])[:, None] / 255
    with torch.no_grad():
        features = model.body.forward_features((pixels - model.mean) / model.std)
        expected = model.body.forward_head(features, pre_logits=True)
    torch.testing.assert_close(torch.from_numpy(codes), expected, rtol=1e-3, atol=1e-4)


def test_the_joined_network_gives_what_the_head_gives_on_codes(model, films, plain_config):
    config = plain_config(batch_size=32)
    codes = build_codes(model, films, ROWS, config)
    head = model.body.get_submodule(model.parts.head)
    with torch.inference_mode():
        # In the batches that the codes were computed in, so that not a bit may differ.
        on_codes = [
            head(torch.from_numpy(codes.gather(part))).double().softmax(dim=1)
            for part in np.split(np.arange(len(ROWS)), [32])
        ]
    joined = predict_probs(model, ImageSet(films, ROWS, np.zeros((len(ROWS), 3))), config)
    np.testing.assert_array_equal(joined, torch.cat(on_codes).numpy())


def test_codes_are_computed_once_and_anew_for_whatever_they_depend_on(
    model, films, plain_config, monkeypatch
):
    config = plain_config()
    first = build_codes(model, films, ROWS, config)
    stamp = first.path.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(codes_module, "_write_codes", None)  # would fail if it were called
        assert build_codes(model, films, ROWS, config).path == first.path
        # What has no say: the head, the course of training, augmentation without passes.
        same = plain_config(lr=0.5, epochs=7, rotation=3.0, seed=5, batch_size=64)
        assert build_codes(model, films, ROWS, same).path == first.path
        other_head = create_model(ARCH, 5)
        other_head.load_state_dict(model.state_dict(), strict=False)
        assert build_codes(other_head, films, ROWS, config).path == first.path
    assert first.path.stat().st_mtime_ns == stamp

    others = {first.path}
    moved = create_model(ARCH, 3, hidden=(16, 8))
    moved.load_state_dict(model.state_dict())
    nn.init.constant_(next(moved.body.buffers()), 0.25)
    pooled = create_model(ARCH, 3, pool="max", hidden=(16, 8))
    pooled.load_state_dict(model.state_dict())
    others.add(build_codes(moved, films, ROWS, config).path)
    others.add(build_codes(pooled, films, ROWS, plain_config(pool="max")).path)
    others.add(build_codes(model, films, ROWS[1:], config).path)
    others.add(build_codes(model, films, ROWS[:4], config).path)
    others.add(build_codes(model, films, ROWS, plain_config(image_size=15)).path)
    passes = plain_config(codes_passes=1)
    others.add(build_codes(model, films, ROWS[:4], passes).path)
    changes = {"seed": 1, "flip": True, "rotation": 9.0, "scale": 0.2, "shift": 0.1}
    changes |= {"random_crop": True, "brightness": 0.1, "contrast": 0.1, "erasing": 0.5}
    for name, value in changes.items():
        changed = dataclasses.replace(passes, **{name: value})
        others.add(build_codes(model, films, ROWS[:4], changed).path)
    for name in ("mean", "std"):
        shifted = copy.deepcopy(model)
        setattr(shifted, name, getattr(model, name) + 0.1)
        others.add(build_codes(shifted, films, ROWS[:4], config).path)
    assert len(others) == 18
    assert not list(films.folder.parent.glob("*.tmp"))


def test_augmented_passes_are_mirrored_for_about_a_half(model, films, plain_config):
    config = plain_config(codes_passes=3, flip=True, batch_size=32)
    codes = build_codes(model, films, ROWS, config)
    assert codes.codes.shape == (4, 47, N_FEATURES)
    plain, *passes = codes.codes
    pixels = torch.from_numpy(films.gather(ROWS)[:, 1:17, 1:17])[:, None] / 255
    with torch.no_grad():
        images = ((pixels - model.mean) / model.std).flip(-1)
        mirrored = model.body.forward_head(model.body.forward_features(images), pre_logits=True)
    turned = []
    for augmented in passes:
        as_it_was = np.isclose(augmented, plain, rtol=1e-3, atol=1e-4).all(axis=1)
        as_mirrored = np.isclose(augmented, mirrored, rtol=1e-3, atol=1e-4).all(axis=1)
        assert (as_it_was ^ as_mirrored).all()
        turned.append(as_mirrored)
    assert 0.35 < np.mean(turned) < 0.65
    assert not np.array_equal(turned[0], turned[1])


def test_each_image_of_each_augmented_pass_is_drawn_anew(model, make_set, plain_config):
    films = make_set([np.full((18, 18), 128, dtype=np.uint8)] * 64, np.arange(64) % 3, 18)
    config = plain_config(codes_passes=2, brightness=0.4, batch_size=32)
    plain, *passes = build_codes(model, films.cache, films.rows, config).codes
    np.testing.assert_allclose(plain, plain[:1].repeat(64, axis=0), atol=1e-4)
    assert len(np.unique(np.concatenate(passes).round(4), axis=0)) == 128


def test_sets_of_codes_keep_each_image_s_label(model, films, toy, plain_config):
    train = ImageSet(films, ROWS[[5, 2, 9]], toy[0].targets[[0, 1, 2]])
    val = ImageSet(films, ROWS[[0, 40]], toy[0].targets[[2, 0]])
    codes = build_codes(model, films, ROWS, plain_config(codes_passes=1))
    coded, judged = code_sets(codes, ROWS, train, val)
    assert len(coded) == 6  # each image, and a copy of each
    np.testing.assert_array_equal(coded.targets.argmax(axis=1), [0, 1, 2, 0, 1, 2])
    both = np.concatenate([codes.codes[0][[5, 2, 9]], codes.codes[1][[5, 2, 9]]])
    np.testing.assert_array_equal(codes.gather(coded.rows), both)
    np.testing.assert_array_equal(codes.gather(judged.rows), codes.codes[0][[0, 40]])
    np.testing.assert_array_equal(judged.targets.argmax(axis=1), [2, 0])


def test_a_stop_or_the_deadline_leaves_no_half_codes(model, films, plain_config, monkeypatch):
    with pytest.raises(UserError, match=r"time limit .* 32 of 47 codes .* longer --time-limit"):
        build_codes(model, films, ROWS, plain_config(), Deadline(time.monotonic()))
    gather = type(films).gather

    def stop(cache, rows):
        os.kill(os.getpid(), signal.SIGTERM)
        return gather(cache, rows)

    monkeypatch.setattr(type(films), "gather", stop)
    with pytest.raises(Stopped, match=r"Stopped while computing codes\."):
        build_codes(model, films, ROWS, plain_config())
    assert [path.name for path in films.folder.parent.iterdir()] == [films.folder.name]


# --- the whole job ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(tmp_path_factory, draw_film):
    """Flags that train on 120 drawn films: codes, head, then the whole network."""
    desk = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    for index in range(126):
        label = index % 3
        folder = desk / "films" / ("test" if index >= 120 else f"train/{CLASSES[label]}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_film(label, rng, 36)).save(folder / f"film_{index}.png")
    text = (
        f"--data {desk / 'films'} --data-dir {desk / 'data'} --arch timm:resnet10t "
        "--pool attention --head 16 8 --image-size 32 --batch-size 8 --epochs 1 "
        "--lr 0.05 --codes-epochs 4 --codes-passes 1 --ema-decay 0.5 "
        "--device cpu --val-fraction 0.2"
    )
    return desk, text.split()


def run_job(job, name, *more):
    desk, flags = job
    places = ["--runs-dir", str(desk / "runs"), "--submissions-dir", str(desk / "submissions")]
    main([*flags, *places, "--name", name, *more])
    return RunFolder(desk / "runs" / name)


@pytest.fixture(scope="module")
def done(job):
    return run_job(job, "whole")


def test_head_then_whole_network_as_one_run(done):
    head = RunFolder(done.path / "head")
    assert list(head.epochs()["epoch"]) == [1, 2, 3, 4]
    assert list(done.epochs()["epoch"]) == [1]
    assert len(done.predictions("test")) == 6
    config = done.config()
    assert (config.head, config.pool, config.codes_epochs) == ((16, 8), "attention", 4)
    load_best(done, torch.device("cpu"))


def test_stopped_between_head_and_network_it_goes_on_the_same(job, done, monkeypatch, caplog):
    """Stopped within the head's epochs, again right after the joining, and gone on with."""
    epochs = 0

    def stop(*args):
        nonlocal epochs
        epochs += 1
        if epochs in (2, 4):
            os.kill(os.getpid(), signal.SIGTERM)
        return finish(*args)

    finish = Loop.finish_epoch
    monkeypatch.setattr(Loop, "finish_epoch", stop)
    folder = done.path.with_name("stopped")
    with pytest.raises(Stopped, match=f"after epoch 2. Go on with: .* --resume {folder}$"):
        run_job(job, "stopped")
    assert not (folder / "checkpoint.pt").exists()
    with pytest.raises(Stopped, match=f"after epoch 4. Go on with: .* --resume {folder}$"):
        main(["--resume", str(folder)])
    with caplog.at_level("INFO", "xraycomp"):
        main(["--resume", str(folder)])
    assert "The head's best val_macro_f1 is 1.0000. Next, the whole network." in caplog.messages
    assert epochs == 5
    again = RunFolder(folder)
    for part in (".", "head"):
        one, two = (
            read_checkpoint(run.path / part / "checkpoint.pt")["model"] for run in (done, again)
        )
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.predictions("test").equals(done.predictions("test"))


def test_the_head_is_kept_in_the_whole_network_until_fine_tuning_is_better(done):
    scores = [RunFolder(done.path / part).epochs()["val_macro_f1"].max() for part in ("head", ".")]
    assert scores[0] == 1.0 > scores[1]  # one short epoch of fine-tuning only spoils it
    head = read_checkpoint(done.path / "head" / "best.pt")["model"]
    best = read_checkpoint(done.best)
    assert best["epoch"] == 0
    tensors = [best["model"][f"body.fc.{name.removeprefix('body.1.')}"] for name in head]
    assert all(torch.equal(one, two) for one, two in zip(tensors, head.values(), strict=True))
    truth = done.manifest().set_index("image")["label"]
    probs = done.predictions("val").set_index("image")
    assert (probs.idxmax(axis=1) == truth[probs.index]).all()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--arch", "resnet81"], "did you mean resnet18"),
        (["--arch", "inception_v3"], "inception_v3 cannot take images of 32 pixels"),
        (["--arch", "vit_b_32", "--image-size", "224"], "no pooling of a feature map"),
        (
            ["--arch", "squeezenet1_1", "--pool", "", "--head"],
            "squeezenet1_1 does not end in one linear layer",
        ),
    ],
)
def test_what_the_network_cannot_do_is_said_before_an_image_is_decoded(job, tmp_path, flags, said):
    with pytest.raises(UserError, match=said):
        run_job(job, "refused", "--data-dir", str(tmp_path / "data"), *flags)
    assert not list(tmp_path.rglob("*.npy"))
    assert not (job[0] / "runs" / "refused").exists()
