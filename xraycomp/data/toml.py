"""TOML files found, read with complaints that name file and key, and written back."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from xraycomp.console.errors import UserError, listing


def built_in_names(folder: Path) -> list[str]:
    """The names, without their ending, of the TOML files that come with the kit in ``folder``."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def read_named(name: str, folder: Path, what: str) -> tuple[str, str]:
    """The text and the path of a built-in TOML file by its name, or of any file by its path.

    Raises ``UserError``, which calls it ``what``, where there is none, and where it is no text.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            raise UserError(f"There is no {what} file {path}. Check the path.")
        known = built_in_names(folder)
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(
            f"There is no built-in {what} {name!r} (built in: {listing(known, 9)}).{hint} For one "
            "of your own give the path of its TOML file."
        )
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}).") from error


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table that a TOML ``text`` holds; ``UserError``, naming it ``where``, if it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not valid TOML: {error}.") from error


@dataclass(frozen=True)
class Reader:
    """Takes values out of TOML tables; every complaint names the file and the key."""

    where: str

    def error(self, complaint: str) -> UserError:
        return UserError(f"{self.where}: {complaint}.")

    def check_keys(
        self, table: Mapping[str, Any], prefix: str, *, required: set[str], optional: set[str]
    ) -> None:
        for key in table:
            if key not in required | optional:
                close = get_close_matches(key, required | optional, n=1)
                hint = f"; did you mean {prefix}{close[0]}" if close else ""
                raise self.error(f"unknown key {prefix}{key}{hint}")
        for key in sorted(required):
            if key not in table:
                raise self.error(f"the key {prefix}{key} is missing")

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            raise self.error(f"{key} must be a text in quotes")
        return value

    def texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        value = table.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} must be a list of texts in quotes")
        return tuple(value)

    def table(self, table: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{key} must be a table ([{key}])")
        return value

    def choice(
        self,
        table: Mapping[str, Any],
        key: str,
        choices: tuple[str, ...],
        default: str | None = None,
    ) -> str:
        if default is not None and key not in table:
            return default
        value = self.text(table, key)
        if value not in choices:
            raise self.error(f"{key} = {value!r} is not one of: {', '.join(choices)}")
        return value


def format_section(name: str, values: Mapping[str, Any]) -> list[str]:
    """The lines of one table, led by an empty one; none where all ``values`` are empty texts."""
    filled = {key: value for key, value in values.items() if value != ""}
    if not filled:
        return []
    return ["", f"[{name}]", *(f"{_key(key)} = {format_value(it)}" for key, it in filled.items())]


def format_value(value: Any) -> str:
    """A text, number, boolean or array of them as TOML."""
    # JSON's strings, numbers, booleans and arrays of them are valid TOML.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
