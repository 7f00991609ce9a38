"""Wrong flags: one sentence that says what was meant, or how the command is called."""

import pytest

from xraycomp import evaluate, kernel, train
from xraycomp.console.command import refuse_flags
from xraycomp.console.errors import UserError


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        (train, ["--epoch", "3"], "There is no flag --epoch; did you mean --epochs?"),
        (train, ["--no_flipp"], "There is no flag --no-flipp; did you mean --no-flip?"),
        (train, ["--zzz=1"], "There is no flag --zzz."),
        (train, ["--optimizer", "sgdd"], "invalid choice 'sgdd' for argument '--optimizer'."),
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
