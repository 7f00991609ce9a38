"""The frame around every command: flags in, one plain sentence out when something is wrong."""

import contextlib
import errno
import io
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from xraycomp.console.errors import UserError
from xraycomp.console.help import HELP_FLAGS, VERBOSE, Help, format_help
from xraycomp.console.signals import Terminated, raise_terminated

Config = TypeVar("Config")

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def parse_flags(
    config_type: type[Config],
    args: Sequence[str],
    *,
    prog: str,
    help: Help,
    default: Config | None = None,
    positional: bool = False,
) -> Config:
    """Read ``args`` into the frozen dataclass ``config_type``.

    With ``positional`` the fields without a default are given by their place, not by a flag. A
    flag that asks for help prints it as ``help`` has it, and ends the process.

    A wrong flag or value raises ``UserError`` with the first sentence of what the parser says.
    """
    if asked := [arg for arg in args if arg in HELP_FLAGS]:
        every = VERBOSE in asked
        print(format_help(config_type, help, prog, default, positional=positional, every=every))
        raise SystemExit(0)
    # Imported here because nothing that runs inside a Kaggle kernel may need a flag parser.
    import tyro

    said = io.StringIO()
    marks = (tyro.conf.PositionalRequiredArgs,) if positional else ()
    shown = tyro.MISSING_NONPROP if default is None else default
    try:
        with contextlib.redirect_stderr(said):
            config = tyro.cli(config_type, prog=prog, args=list(args), default=shown, config=marks)
        sentence = _bare_flag(config, default, args)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        sentence = _unknown_flag(config_type, args) or _plain(_first_sentence(said.getvalue()))
        if "is missing" in sentence:
            sentence += f" Call it as in: {prog} {help.examples[0]}."
    if not sentence:
        return config
    error = UserError(f"{sentence} See {prog} --help.")
    error.exit_code = 2
    raise error


def _bare_flag(config: Any, default: Any, args: Sequence[str]) -> str:
    """A sentence on the first flag of a list that is given once and without any value, where it has
    none anyway; else empty."""
    given = [arg.replace("_", "-") for arg in args]
    for item in fields(config):
        flag = f"--{item.name.replace('_', '-')}"
        empty = getattr(config, item.name) == () == getattr(default, item.name, item.default)
        if empty and given.count(flag) == 1:
            return f"{flag} is followed by no value; give one or more, or leave it out."
    return ""


def _unknown_flag(config_type: Any, args: Sequence[str]) -> str:
    """A sentence on the first flag that there is not, with one that is like it; else empty."""
    names = [item.name.replace("_", "-") for item in fields(config_type)]
    known = [*(f"--{name}" for name in names), *(f"--no-{name}" for name in names), "--help"]
    for arg in args:
        flag = arg.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            close = get_close_matches(flag, known, n=1)
            return f"There is no flag {flag}{f'; did you mean {close[0]}?' if close else '.'}"
    return ""


def refuse_flags(config: Any, names: set[str], beside: str) -> None:
    """Raise ``UserError`` where fields of these names are not as they are by default, since such
    flags would silently be left undone ``beside`` another."""
    given = [
        f"--{'no-' if getattr(config, field.name) is False else ''}{field.name.replace('_', '-')}"
        for field in fields(config)
        if field.name in names and getattr(config, field.name) != field.default
    ]
    if given:
        raise UserError(
            f"{', '.join(given)} would do nothing beside {beside}. Leave "
            f"{'it' if len(given) == 1 else 'them'} out, or give two commands."
        )


def _plain(sentence: str) -> str:
    """The parser's sentence without the notation of types."""
    if sentence.startswith("Missing from"):
        return f"{' and '.join(re.findall(r'--[a-z-]+', sentence)) or 'Something'} is missing."
    if choice := re.match(r"invalid choice '(.*)' for argument '(--.*?)'.*\((.*)\)", sentence):
        value, flag, known = choice.groups()
        names = [name.strip("'") for name in known.split(", ")]
        return f"{flag} is {value}; it must be one of: {', '.join(filter(None, names))}."
    if wrong := re.match(r"Error parsing (--[a-z-]+): .*?'(.*?)'", sentence):
        return f"{wrong[1]} cannot be {wrong[2]!r}."
    return sentence


def _first_sentence(box: str) -> str:
    """The message inside the frame that the parser draws around its errors."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    message = []
    for line in lines:
        if line.startswith("──"):
            break
        message.append(line)
    sentence = " ".join(message).strip()
    return sentence if sentence.endswith((".", "?")) else sentence + "."


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run ``main`` on the command line's arguments and leave the process with its exit code.

    ``--debug`` anywhere on the line lets the traceback through. SIGTERM ends the process as
    Ctrl-C does: after what was half-written is removed.
    """
    args = sys.argv[1:]
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    log_to_terminal()
    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        main(args)
        code = 0
    except KeyboardInterrupt:
        code = _fail("Interrupted.", 130)
    except Terminated:
        code = _fail("Terminated.", 128 + signal.SIGTERM)
    except UserError as error:
        if debug:
            raise
        code = _fail(str(error), error.exit_code)
    except OSError as error:
        if debug or (error.filename is None and error.errno not in _DISK_FULL):
            raise
        code = _fail(_explain(error), 1)
    finally:
        signal.signal(signal.SIGTERM, previous)
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


def _explain(error: OSError) -> str:
    if error.errno in _DISK_FULL:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"The disk is full or a file-size limit was reached{where}. Free some space, then run "
            "the same command again."
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return (
            f"No permission to write or read {error.filename}. Choose another folder or change its "
            "permissions."
        )
    return f"{error.strerror}: {error.filename}."


def log_to_terminal() -> None:
    """Print what the kit says to stdout."""
    # A log line that a full disk or a closed pipe does not take must not print a traceback.
    logging.raiseExceptions = False
    logger = logging.getLogger("xraycomp")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
