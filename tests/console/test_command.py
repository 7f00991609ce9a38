"""The frame around commands: what was meant by wrong flags, and how each end is said."""

import errno
import logging
import os
import signal
import sys

import pytest

from xraycomp import evaluate, kernel, merge, train
from xraycomp.console.command import refuse_flags, run_command
from xraycomp.console.errors import UserError, listing
from xraycomp.console.signals import StopRequest


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        (train, ["--epoch", "3"], "There is no flag --epoch; did you mean --epochs?"),
        (train, ["--no_flipp"], "There is no flag --no-flipp; did you mean --no-flip?"),
        (train, ["--zzz=1"], "There is no flag --zzz."),
        (
            train,
            ["--optimizer", "sgdd"],
            "--optimizer is sgdd; it must be one of: sgd, adam",
        ),
        (train, ["--track", "tb"], "--track is tb; it must be one of: tensorboard, wandb."),
        (train, ["--lr", "high"], "--lr cannot be 'high'."),
        (train, ["--workers", "all"], "--workers cannot be 'all'."),
        (train, ["--seed"], "Missing value for argument '--seed'."),
        (train, ["--tta"], "--tta is followed by no value; give one or more, or leave it out."),
        (
            merge,
            ["--runs", "a"],
            "--name is missing. Call it as in: python -m xraycomp.merge",
        ),
        (kernel, ["build"], "Something is missing. Call it as in: python -m xraycomp.kernel rehe"),
    ],
)
def test_a_wrong_flag_says_what_was_meant(command, args, said):
    with pytest.raises(UserError) as caught:
        command.main(args)
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(f"See {command.PROG} --help.")
    assert caught.value.exit_code == 2


def test_a_flag_that_would_do_nothing_is_refused_and_its_default_is_none():
    config = evaluate.EvaluateConfig(intervals=False, split="test")
    refuse_flags(config, {"metric", "columns"}, "--run")
    said = r"^--split, --no-intervals would do nothing beside --run\."
    with pytest.raises(UserError, match=said):
        refuse_flags(config, {"split", "intervals"}, "--run")


@pytest.fixture
def end(monkeypatch, capsys):
    """Run a ``main`` that raises an error or sends a signal; its exit code and stderr."""
    monkeypatch.setattr(logging.getLogger("xraycomp"), "handlers", [])

    def run(what, *args):
        monkeypatch.setattr(sys, "argv", ["command", *args])

        def main(left):
            assert "--debug" not in left
            if isinstance(what, signal.Signals):
                os.kill(os.getpid(), what)
            else:
                raise what

        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as stop:
            run_command(main)
        assert signal.getsignal(signal.SIGTERM) is before
        return stop.value.code, capsys.readouterr().err

    return run


def test_each_end_has_its_exit_code_and_one_line(end):
    assert end(signal.SIGINT) == (130, "Interrupted.\n")
    assert end(signal.SIGTERM) == (143, "Terminated.\n")
    assert end(UserError("The file is gone.")) == (1, "The file is gone.\n")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert end(full) == (
        1,
        "The disk is full or a file-size limit was reached. Free some space, then run the same "
        "command again.\n",
    )
    code, said = end(PermissionError(errno.EACCES, "Permission denied", "/here"))
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("No permission to write or read /here.")


def test_debug_lets_tracebacks_through_and_so_does_what_nobody_foresaw(end):
    full = OSError(errno.ENOSPC, "No space left on device", "/here")
    for error, args in (
        (UserError("The file is gone."), ["--debug"]),
        (full, ["--debug"]),
        (OSError("something of a library's own"), []),  # no file is named: a fault of ours
        (ValueError("a fault of ours"), []),
    ):
        with pytest.raises(type(error)) as caught:
            end(error, *args)
        assert caught.value is error


def test_a_second_signal_ends_what_waits_for_a_good_place_to_stop():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_listing_counts_what_it_leaves_out():
    assert listing(list("abcde")) == "a, b, c, d, e"
    assert listing(list("abcdef")) == "a, b, c, d, e and 1 more"
    assert listing([str(n) for n in range(2000)], 1) == "0 and 1,999 more"
