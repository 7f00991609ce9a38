"""When training has to stop, so that everything after it is done in time."""

import time

import pytest

from xraycomp.model.deadline import NO_DEADLINE, Deadline, deadline_in, share_out


@pytest.mark.parametrize(("images", "near"), [(0, False), (45, False), (55, True), (65, True)])
def test_a_deadline_leaves_time_for_all_predictions_and_ten_seconds_to_write(images, near):
    deadline = Deadline(time.monotonic() + 100, images_after=40)
    assert deadline.is_near(images, 1.0) is near
    assert deadline.is_near(2 * images + 40, 0.5) is near


def test_a_time_limit_is_in_minutes():
    assert deadline_in(2.5).at == pytest.approx(time.monotonic() + 150, abs=5)
    assert deadline_in(None) is NO_DEADLINE
    assert not NO_DEADLINE.is_near(10**9, 3600.0)


def test_what_one_job_leaves_of_its_share_goes_to_those_after_it():
    shares = share_out(0.3, 3)
    assert next(shares) == pytest.approx(0.1, abs=0.01)
    assert next(shares) == pytest.approx(0.15, abs=0.01)  # the first took no time
    time.sleep(1.2)
    assert next(shares) == pytest.approx(0.28, abs=0.01)
    assert list(share_out(None, 2)) == [None, None]
