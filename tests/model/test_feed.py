"""Images come to the device in the order asked for, wherever they are kept."""

import numpy as np
import pytest
import torch

from xraycomp.model.feed import DeviceRows, feed, keep_on_device

CPU = torch.device("cpu")
BATCHES = [np.array([3, 0, 40]), np.array([7]), np.array([95, 95, 2, 1])]
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def wanted(films):
    return [films.cache.gather(rows) for rows in BATCHES]


def test_blocks_are_those_of_the_cache(toy):
    blocks = list(feed(toy[0].cache, BATCHES, CPU))
    for block, pixels in zip(blocks, wanted(toy[0]), strict=True):
        assert block.dtype == torch.uint8
        np.testing.assert_array_equal(block, pixels)


def test_images_in_the_device_s_memory_come_as_from_the_cache(toy):
    cache = DeviceRows(torch.from_numpy(toy[0].cache.gather(toy[0].rows)))
    for block, pixels in zip(feed(cache, BATCHES, CPU), wanted(toy[0]), strict=True):
        np.testing.assert_array_equal(block, pixels)


def test_nothing_is_read_before_it_is_asked_for(toy):
    def batches():
        yield BATCHES[0]
        raise AssertionError("asked too early")

    assert len(next(feed(toy[0].cache, batches(), CPU))) == 3


@on_gpu
def test_blocks_that_are_read_ahead_are_those_of_the_cache(toy):
    blocks = feed(toy[0].cache, BATCHES * 20, torch.device("cuda", 0))
    for block, pixels in zip(blocks, wanted(toy[0]) * 20, strict=True):
        np.testing.assert_array_equal(block.cpu(), pixels)


@on_gpu
def test_sets_that_fit_are_kept_on_the_gpu(toy):
    for kept, films in zip(keep_on_device(toy, torch.device("cuda", 0)), toy, strict=True):
        assert isinstance(kept.cache, DeviceRows)
        found = kept.cache.gather(kept.rows[5:9]).cpu()
        np.testing.assert_array_equal(found, films.cache.gather(films.rows[5:9]))
