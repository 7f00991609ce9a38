"""``--help`` of every command: one screen, the flags that matter first, none forgotten."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from xraycomp import download, evaluate, kernel, merge, predict, report, soup, submit, train
from xraycomp.console.command import parse_flags
from xraycomp.console.help import Help
from xraycomp.model.config import TrainConfig

Cli = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = [
    (train, TrainConfig),
    (merge, merge.MergeConfig),
    (predict, predict.PredictConfig),
    (soup, soup.SoupConfig),
    (evaluate, evaluate.EvaluateConfig),
    (download, download.DownloadConfig),
    (kernel, kernel.KernelConfig),
    (submit, submit.SubmitConfig),
    (report, report.ReportConfig),
]
NAMES = [command.__name__.rpartition(".")[2] for command, _ in COMMANDS]


def printed(main: Callable[[list[str]], None], *args: str, capsys: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert not stop.value.code
    out, err = capsys.readouterr()
    assert not err
    return str(out)


def shown_fields(text: str) -> list[str]:
    """The fields that the help shows, as flags or in capitals, where it lists them."""
    shown = []
    _, _, lists = text.rpartition("  python -m xraycomp.")  # after the last example
    for line in lists.splitlines()[1:]:
        if line.startswith("python -m"):
            continue
        if explained := re.match(r"  (?:--(?:\[no-\])?([a-z-]+)|([A-Z]+))(?:  |$)", line):
            shown.append(explained[1] or explained[2].lower())
        elif re.fullmatch(r"(?:[A-Z][\w ]+:|  )?(?: ?--(?:\[no-\])?[a-z-]+)+", line):
            shown += re.findall(r"--(?:\[no-\])?([a-z-]+)", line)
    return [name.replace("-", "_") for name in shown]


@pytest.mark.parametrize(("command", "config_type"), COMMANDS, ids=NAMES)
def test_help_is_one_screen_with_every_flag_once(
    command: Any, config_type: type, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(command.main, "--help", capsys=capsys)
    lines = text.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith(f"usage: {command.PROG}")
    assert sorted(shown_fields(text)) == sorted(field.name for field in fields(config_type))
    assert shown_fields(text)[: len(command.HELP.first.split())] == command.HELP.first.split()
    assert lines[-1] == f"{command.PROG} --help-verbose explains every flag."
    assert text == printed(command.main, "-h", capsys=capsys)


@pytest.mark.parametrize(("command", "config_type"), COMMANDS, ids=NAMES)
def test_each_flag_that_matters_takes_one_line(
    command: Any, config_type: type, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(command.main, "--help", capsys=capsys)
    explained = text.split("\n\n  ")[2].split("\n\n")[0].splitlines()
    assert len(explained) == len(command.HELP.first.split())


@pytest.mark.parametrize(("command", "config_type"), COMMANDS, ids=NAMES)
def test_verbose_help_explains_every_flag_once(
    command: Any, config_type: type, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(command.main, "--help-verbose", capsys=capsys)
    assert sorted(shown_fields(text)) == sorted(field.name for field in fields(config_type))
    assert max(map(len, text.splitlines())) <= 100
    for line in text.splitlines():
        assert not re.fullmatch(r"  --\S+", line.rstrip()), "a flag without text"


@pytest.mark.parametrize(("command", "config_type"), COMMANDS, ids=NAMES)
def test_groups_name_known_fields_each_once(command: Any, config_type: type) -> None:
    named = " ".join([command.HELP.first, *command.HELP.groups.values()]).split()
    assert len(named) == len(set(named))
    assert set(named) <= {field.name for field in fields(config_type)}


def test_the_command_prints_its_help_where_stdout_is_no_terminal(cli: Cli) -> None:
    done = cli("train", "--help")
    assert done.returncode == 0
    assert not done.stderr
    assert len(done.stdout.splitlines()) <= 45


def test_train_shows_the_defaults_of_the_recipe_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = printed(train.main, "--help", capsys=capsys)
    assert re.search(r"--lr .*\[0\.02\]", plain)
    recipe = printed(train.main, "--competition", "chest-xray-4", "--help", capsys=capsys)
    assert re.search(r"--lr .*\[0\.001\]", recipe)
    assert re.search(r"--epochs .*\[26\]", recipe)


@dataclass(frozen=True)
class Brew:
    """Brew tea.

    Slowly.
    """

    leaves: str
    """What is brewed: the leaves. They sink."""
    minutes: float = 0.0
    """For how long; more is bitter."""
    pot: Path | None = None
    """Where. Default: the brown one; the blue one on Sundays."""
    kind: Literal["green", "black"] = "green"
    """How the leaves were dried."""
    milk: bool = False
    """Add milk."""
    stir: bool = True
    """Stir it."""


def brew(*args: str, **given: Any) -> Brew:
    page = Help(examples=("mint",), first="leaves minutes pot", groups={"Taste": "milk"})
    return parse_flags(Brew, args, prog="brew", help=page, **given)


SHORT = """\
usage: brew LEAVES [--flag VALUE ...]

Brew tea.

Slowly.

  brew mint

  LEAVES     What is brewed: the leaves [needed]
  --minutes  For how long [0.0]
  --pot      Where [the brown one]

Taste: --milk
Other: --kind --[no-]stir

brew --help-verbose explains every flag.
"""


def test_fields_of_no_group_come_last(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        brew("--help", positional=True)
    assert capsys.readouterr().out == SHORT


VERBOSE = """\
  LEAVES     What is brewed: the leaves. They sink [mint]
  --minutes  For how long; more is bitter [3]
  --pot      Where [the brown one; the blue one on Sundays]

Taste:
  --[no-]milk  Add milk [yes]

Other:
  --kind       How the leaves were dried; one of green, black [black]
  --[no-]stir  Stir it [yes]
"""


def test_verbose_help_tells_all_with_the_given_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    default = Brew("mint", minutes=3, kind="black", milk=True)
    with pytest.raises(SystemExit):
        brew("--help-verbose", positional=True, default=default)
    assert capsys.readouterr().out.endswith("\n\n" + VERBOSE)


def test_flags_are_parsed_as_before() -> None:
    assert brew("mint", "--no-stir", "--pot", "x", positional=True) == Brew(
        "mint", stir=False, pot=Path("x")
    )
