"""Probabilities of an image depend on the network and that image alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as TF

from xraycomp.console.errors import UserError
from xraycomp.data.batches import ImageSet
from xraycomp.model.augment import draw_view, prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.device import choose_device
from xraycomp.model.inference import predict_probs
from xraycomp.model.views import VIEWS
from xraycomp.model.zoo import create_model
from xraycomp.predict import PredictConfig, predict

CPU = torch.device("cpu")
CONFIG = TrainConfig(image_size=32, resize_size=36)


@pytest.fixture(scope="module")
def films(draw_film, make_set):
    rng = np.random.default_rng(1)
    return make_set([draw_film(label % 3, rng, 36) for label in range(23)], np.arange(23) % 3, 36)


@pytest.fixture(scope="module")
def net():
    """ResNet-18 whose batch norms have seen something, so that their statistics matter."""
    torch.manual_seed(0)
    model = create_model("resnet18", 3)
    model.train()
    for _ in range(3):
        model(torch.randn(8, 1, 32, 32) * 0.5)
    return model


def probs_of(model, films, rows=None, **options):
    rows = films.rows if rows is None else rows
    return predict_probs(model, ImageSet(films.cache, rows, films.targets), CONFIG, **options)


@pytest.mark.parametrize("tta", [(), tuple(VIEWS)])
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batch_size_and_order_change_nothing(net, films, batch_size, tta):
    wanted = probs_of(net, films, tta=tta)
    order = np.random.default_rng(0).permutation(len(films))
    found = probs_of(net, films, order, batch_size=batch_size, tta=tta)
    np.testing.assert_allclose(found, wanted[order], atol=1e-6)
    assert np.ptp(wanted, axis=0).max() > 1e-3  # the images do differ


def test_rows_are_probabilities_in_full_precision(net, films):
    probs = probs_of(net, films)
    assert probs.shape == (23, 3)
    assert probs.dtype == np.float64
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-12)


def seen(view, films):
    """The films as torchvision shows them in a view: uint8 would round, so as prepared input."""
    pixels = torch.from_numpy(films.cache.gather(films.rows))[:, None].float() / 255
    crop = pixels[:, :, 2:34, 2:34]
    if view == "mirror":
        return crop.flip(-1)
    if view == "whole":
        return TF.resize(pixels, [32, 32], antialias=False)
    if view == "zoom":  # 28 of 36 pixels make the 32
        return TF.resize(pixels[:, :, 4:32, 4:32], [32, 32], antialias=False)
    degrees = {"left": 5.0, "right": -5.0}[view]
    turned = TF.rotate(pixels, degrees, interpolation=TF.InterpolationMode.BILINEAR)
    return turned[:, :, 2:34, 2:34]


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_is_what_torchvision_makes_of_the_film(net, films, view):
    wanted = seen(view, films)
    block = torch.from_numpy(films.cache.gather(films.rows))
    draws = draw_view(VIEWS[view], CONFIG)[torch.zeros(len(films), dtype=torch.long)]
    shown = prepare(block, CONFIG, 0.0, 1.0, draws)
    # The border is interpolated with what lies beyond the crop; torchvision's is not.
    inside = slice(None) if view in ("mirror", "whole") else slice(2, -2)
    torch.testing.assert_close(
        shown[..., inside, inside], wanted[..., inside, inside], atol=2e-3, rtol=0
    )
    with torch.inference_mode():
        one = net.eval()((shown - net.mean) / net.std).double().softmax(dim=1).numpy()
    plain = probs_of(net, films)
    assert np.abs(one - plain).max() > 1e-4
    np.testing.assert_allclose(probs_of(net, films, tta=(view,)), (plain + one) / 2, atol=1e-5)


def test_several_views_are_the_mean_of_the_single_ones(net, films):
    plain = probs_of(net, films)
    single = [2 * probs_of(net, films, tta=(view,)) - plain for view in VIEWS]
    wanted = np.mean([plain, *single], axis=0)
    np.testing.assert_allclose(probs_of(net, films, tta=tuple(VIEWS)), wanted, atol=1e-9)


def test_the_mirror_is_that_of_films_that_were_mirrored_before_they_were_written(
    net, films, make_set
):
    pixels = films.cache.gather(films.rows)
    mirrored = make_set(list(pixels[:, :, ::-1].copy()), films.targets.argmax(axis=1), 36)
    one, other = probs_of(net, films), probs_of(net, mirrored)
    assert np.abs(one - other).max() > 1e-4
    np.testing.assert_allclose(probs_of(net, films, tta=("mirror",)), (one + other) / 2, atol=1e-6)


@pytest.mark.parametrize("size", [29, 31, 32])
def test_a_mirrored_crop_shows_the_part_that_the_plain_one_shows(films, size):
    """Also where the crop cannot lie in the middle of the film; whatever training draws."""
    config = TrainConfig(image_size=size, resize_size=36, brightness=0.3, erasing=1.0)
    block = torch.from_numpy(films.cache.gather(films.rows[:3]))
    view = draw_view(VIEWS["mirror"], config)[torch.zeros(3, dtype=torch.long)]
    plain = prepare(block, config, 0.5, 0.25)
    torch.testing.assert_close(
        prepare(block, config, 0.5, 0.25, view), plain.flip(-1), atol=1e-4, rtol=0
    )


def test_views_are_given_by_name():
    assert TrainConfig(tta=["mirror", "left", "mirror"]).tta == ("mirror", "left")
    with pytest.raises(UserError) as said:
        TrainConfig(tta=("mirror", "upside"))
    assert str(said.value) == (
        "--tta: there is no view 'upside'; choose among mirror, zoom, whole, left, right."
    )
    with pytest.raises(UserError, match="there is no view 'upside'"):
        predict(PredictConfig(runs=(Path("runs/one"),), tta=("upside",)))


def test_the_other_images_of_the_set_play_no_part(net, films, make_set):
    """White and black films beside them do not move the probabilities of the first ones."""
    pixels = list(films.cache.gather(films.rows))
    extremes = [np.full((36, 36), value, np.uint8) for value in (0, 255) * 20]
    mixed = make_set(pixels + extremes, np.zeros(63), 36)
    found = probs_of(net, mixed, batch_size=63)[:23]
    np.testing.assert_allclose(found, probs_of(net, films), atol=1e-6)


def test_predicting_changes_nothing_in_the_network(net, films):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()
    probs_of(net, films)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_dropout_is_off(films):
    torch.manual_seed(0)
    model = create_model("squeezenet1_1", 3)
    model.train()
    np.testing.assert_array_equal(probs_of(model, films), probs_of(model, films))


def test_the_processor_can_always_be_chosen():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "", "xpu:7"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(UserError, match=r"cannot be used here\. Use --device cpu or auto"):
        choose_device(name)
