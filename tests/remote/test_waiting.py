"""Waiting: how often it looks, and when it gives up; by a clock that only sleeping moves."""

import itertools
from types import SimpleNamespace

import pytest

from xraycomp.remote import waiting
from xraycomp.remote.client import Unreachable
from xraycomp.remote.waiting import PATIENCE, wait_for

SILENCE = Unreachable("Kaggle could not be reached.", "timed out")


@pytest.fixture
def look(monkeypatch):
    """Make looks that take turns (a state, an error, or True for the answer), and their times."""
    now = 0.0

    def sleep(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))

    def make(*turns):
        left, times = list(turns), []

        def once():
            times.append(now)
            turn = left.pop(0)
            if isinstance(turn, Exception):
                raise turn
            return "there" if turn is True else turn, turn is True or None

        return once, times

    return make


def test_pauses_grow_up_to_the_poll_and_begin_anew_with_a_new_state(look):
    once, times = look(*["queued"] * 12, "running", True)
    assert wait_for(once, "it", poll=30.0) is True
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses[:12] == sorted(pauses[:12])
    assert pauses[0] < max(pauses) == pytest.approx(30.0)
    assert pauses[12] == pytest.approx(pauses[0])


def test_it_gives_up_only_after_a_long_time_without_any_answer(look):
    poll = PATIENCE / 4
    once, times = look(*["running", SILENCE] * 2000, True)  # never for long at a stretch
    assert wait_for(once, "it", poll=poll) is True
    assert times[-1] > 2 * PATIENCE
    once, times = look("running", *[SILENCE] * 99)
    with pytest.raises(Unreachable):
        wait_for(once, "it", poll=poll)
    assert PATIENCE < times[-1] - times[0] <= PATIENCE + poll + 1
