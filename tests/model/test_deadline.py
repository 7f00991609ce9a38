"""When training has to stop, so that everything after it is done in time."""

import time

import pytest

from xraycomp.model.deadline import NO_DEADLINE, Deadline, deadline_in


@pytest.mark.parametrize(("images", "near"), [(0, False), (45, False), (55, True), (65, True)])
def test_a_deadline_leaves_time_for_all_predictions_and_ten_seconds_to_write(images, near):
    deadline = Deadline(time.monotonic() + 100, images_after=40)
    assert deadline.is_near(images, 1.0) is near
    assert deadline.is_near(2 * images + 40, 0.5) is near


def test_a_time_limit_is_in_minutes():
    assert deadline_in(2.5).at == pytest.approx(time.monotonic() + 150, abs=5)
    assert deadline_in(None) is NO_DEADLINE
    assert not NO_DEADLINE.is_near(10**9, 3600.0)
