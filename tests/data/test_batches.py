"""Which images an epoch shows: balanced, repeatable, resumable, at any size."""

import numpy as np
import pytest
from scipy.stats import chisquare

from xraycomp.data.batches import BLOCKS_AT_ONCE, balanced_weights, epoch_order

LABELS = np.repeat([0, 1, 2, 3], [20, 100, 380, 1500])
TARGETS = np.eye(4, dtype=np.float32)[LABELS]


def test_balanced_weights_draw_every_class_and_every_image_of_a_class_alike():
    weights = balanced_weights(TARGETS)
    assert weights.sum() == pytest.approx(1)
    drawn = np.concatenate([epoch_order(len(LABELS), weights, 0, epoch) for epoch in range(40)])
    assert chisquare(np.bincount(LABELS[drawn])).pvalue > 1e-4
    of_rarest = drawn[LABELS[drawn] == 0]
    assert chisquare(np.bincount(of_rarest, minlength=20)).pvalue > 1e-4


def test_a_class_that_is_absent_takes_no_weight():
    weights = balanced_weights(np.eye(3)[[0, 0, 2]])
    assert weights == pytest.approx([0.25, 0.25, 0.5])


def test_an_image_of_several_classes_is_drawn_for_its_rarest_and_none_is_a_class():
    # Columns: common, rare, middle. Rows: 4 with the common one only, one with it and the rare one,
    # two of the middle one (one is unknown elsewhere), 3 with none.
    nan = np.nan
    targets = np.array(
        [*[[1, 0, 0]] * 4, [1, 1, 0], [1, nan, 1], [0, 0, 1], *[[0, 0, nan]] * 3], dtype=np.float32
    )
    weights = balanced_weights(targets)
    assert weights == pytest.approx([*[1 / 16] * 4, 1 / 4, 1 / 8, 1 / 8, *[1 / 12] * 3])


def test_images_of_which_all_have_a_class_leave_no_weight_for_none():
    assert balanced_weights(np.array([[1, 0], [1, 1]])) == pytest.approx([0.5, 0.5])


def test_without_weights_each_image_comes_once():
    order = epoch_order(1000, None, seed=0, epoch=0)
    assert sorted(order) == list(range(1000))
    assert list(order) != list(range(1000))


@pytest.mark.parametrize("weights", [None, balanced_weights(TARGETS)])
def test_the_order_depends_on_seed_and_epoch_alone(weights):
    def order(seed, epoch):
        return epoch_order(len(LABELS), weights, seed, epoch).tolist()

    first = order(1, 0)
    np.random.seed(5)  # the global state must not matter
    assert order(1, 0) == first
    assert order(1, 1) != first
    assert order(2, 0) != first
    assert order(0, 1) != order(1, 0)


@pytest.mark.parametrize("block", [1, 8, 37, 5000])
@pytest.mark.parametrize("weights", [None, balanced_weights(TARGETS)])
def test_in_blocks_the_same_images_come_a_few_neighbourhoods_at_a_time(weights, block):
    order = epoch_order(len(LABELS), weights, 3, 1, block)
    assert sorted(order) == sorted(epoch_order(len(LABELS), weights, 3, 1))
    if weights is not None:
        return  # how many images a neighbourhood shows is then drawn
    # Whatever window of images one looks at, it lies in two windows of blocks at most.
    window = block * BLOCKS_AT_ONCE
    for start in range(0, len(order) - window, 50):
        neighbourhoods = np.flatnonzero(np.diff(np.sort(order[start : start + window])) > block)
        assert len(neighbourhoods) <= 2 * BLOCKS_AT_ONCE


def test_blocks_are_cut_and_shuffled_anew_in_each_epoch_and_mixed_within_a_window():
    first, second = (epoch_order(6400, None, 0, epoch, 16) for epoch in (0, 1))
    assert epoch_order(6400, None, 0, 0, 16).tolist() == first.tolist()
    windows = [set(order[:256].tolist()) for order in (first, second)]
    assert len(windows[0] & windows[1]) < 64
    starts = [{row % 16 for row in window if row - 1 not in window} for window in windows]
    assert [len(each) for each in starts] == [1, 1]  # all blocks are cut alike within an epoch
    assert starts[0] != starts[1]
    # A batch takes from nearly all blocks of its window, and not one after the other.
    blocks = [
        len(np.unique((batch + 16 - min(starts[0])) // 16)) for batch in first.reshape(-1, 64)
    ]
    assert min(blocks) >= 12


def test_in_blocks_weighted_sampling_still_draws_every_class_alike():
    weights = balanced_weights(TARGETS)
    drawn = np.concatenate([epoch_order(len(LABELS), weights, 0, e, 16) for e in range(40)])
    assert chisquare(np.bincount(LABELS[drawn])).pvalue > 1e-4


def test_more_weights_than_torch_multinomial_takes_are_drawn_evenly():
    n = (1 << 24) + 1000  # torch.multinomial refuses more than 2**24 categories
    weights = np.zeros(n)
    weights[-2000:] = 1 / 2000
    order = epoch_order(n, weights, seed=0, epoch=0)
    assert len(order) == n
    assert order.min() == n - 2000
    assert order.max() == n - 1
    assert chisquare(np.bincount(order - order.min())).pvalue > 1e-4
