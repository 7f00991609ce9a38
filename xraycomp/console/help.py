"""What ``--help`` prints: one screen, or with ``--help-verbose`` every flag explained.

The flag parser's own help is one list of all flags; here the few that matter come first.
"""

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

VERBOSE = "--help-verbose"
HELP_FLAGS = ("-h", "--help", VERBOSE)
WIDTH = 100


@dataclass(frozen=True)
class Help:
    """How a command shows its flags; names of fields are parted by spaces."""

    examples: tuple[str, ...]
    """What may follow the command's name."""
    first: str
    """The flags that matter, which ``--help`` explains."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Heading to the flags under it, which ``--help`` only names. Fields of the command that are
    named nowhere come under a last heading, Other."""


def format_help(
    config_type: Any, help: Help, prog: str, default: Any, *, positional: bool, every: bool
) -> str:
    """One screen of help, or ``every`` flag explained, with the values of ``default`` as defaults.

    What stands for a flag in one line is the first sentence, up to a semicolon, of the docstring
    below its field; ``Default: ...`` there says what a default of None, "" or () means.
    """
    items = {item.name: item for item in fields(config_type)}
    groups = {heading: names.split() for heading, names in help.groups.items()}
    named = {*help.first.split(), *itertools.chain(*groups.values())}
    groups["Other"] = [name for name in items if name not in named]
    texts = _field_docstrings(config_type)
    values = {name: getattr(default, name, item.default) for name, item in items.items()}
    places = [name for name, item in items.items() if positional and item.default is MISSING]

    def flag(name: str) -> str:
        if name in places:
            return name.upper()
        return f"--{'[no-]' if values[name] is True else ''}{name.replace('_', '-')}"

    def explain(names: list[str]) -> list[str]:
        indent = " " * (4 + max(len(flag(name)) for name in names))
        lines = []
        for name in names:
            text = _explain(texts[name], values[name], items[name].type, every)
            line = f"  {flag(name)}".ljust(len(indent)) + text
            lines += textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
        return lines

    lines = [" ".join(["usage:", prog, *map(flag, places), "[--flag VALUE ...]"]), ""]
    for paragraph in inspect.cleandoc(config_type.__doc__).split("\n\n"):
        lines += [*textwrap.wrap(paragraph, WIDTH), ""]
    lines += [*(f"  {prog} {example}" for example in help.examples), ""]
    lines += [*explain(help.first.split()), ""]
    for heading, names in groups.items():
        if names and every:
            lines += [f"{heading}:", *explain(names), ""]
        elif names:
            line = f"{heading}: {' '.join(map(flag, names))}"
            lines += textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    lines += [] if every else ["", f"{prog} {VERBOSE} explains every flag."]
    return "\n".join(lines).rstrip()


def _field_docstrings(config_type: Any) -> dict[str, str]:
    inherited = config_type.__mro__[:-1]  # object, the last, says nothing of fields
    sources = [ast.parse(inspect.getsource(base)).body[0] for base in inherited]
    return {
        above.target.id: " ".join(str(ast.literal_eval(below.value)).split())
        for source in sources
        if isinstance(source, ast.ClassDef)
        for above, below in itertools.pairwise(source.body)
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
        if isinstance(below, ast.Expr)
    }


def _explain(text: str, value: Any, annotation: Any, every: bool) -> str:
    """``text``, or its first sentence up to a semicolon, and the default in brackets."""
    text, _, described = text.partition(" Default: ")
    if not every:
        text, described = (re.split(r"[.;]\s", part)[0] for part in (text, described))
    elif get_origin(annotation) is Literal:
        choices = [choice for choice in get_args(annotation) if choice]
        if not all(choice in text for choice in choices):
            text = f"{text.removesuffix('.')}; one of {', '.join(choices)}"
    if value is MISSING:
        shown = "needed"
    elif value is None or value is False or value in ("", ()):
        shown = described.removesuffix(".")
    else:
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text.removesuffix(".") + (f" [{'yes' if value is True else shown}]" if shown else "")
