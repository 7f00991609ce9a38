"""Search spaces: TOML files that say which settings of training are tried."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from xraycomp.console.errors import UserError
from xraycomp.data.toml import Reader, parse_toml, read_named
from xraycomp.model.config import TrainConfig

BUILT_IN = Path(__file__).parent / "spaces"
CHOICE = "choice"
"""The parameter that says which of the choices it is."""
_NOT_SEARCHED = {
    *("name", "resume", "overwrite", "recipe", "data_dir", "runs_dir", "submissions_dir"),
    *("competition", "data", "monitor", "time_limit", "device", "devices", "workers", "track"),
}
"""What says where and how long a trial runs, or what it is measured by; trials share it."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool = False
    """Whether equal ratios are equally likely, and not equal differences."""
    step: float | None = None
    whole: bool = False
    """Whether only integers are meant, as the field has them."""


Domain = tuple[Any, ...] | Range
"""What a field may be: one of these values, or a number of a range."""


@dataclass(frozen=True)
class Space:
    """Which fields of the training configuration are searched, and what the others are."""

    text: str
    """The TOML that it was read from."""
    where: str
    title: str
    fixed: Mapping[str, Any]
    fields: Mapping[str, Domain]
    choices: Mapping[str, Mapping[str, Domain]]
    """Fields that go together, of which one group is chosen: its name to its fields."""

    @property
    def searched(self) -> list[str]:
        """The fields that differ between trials."""
        together = itertools.chain(*self.choices.values())
        return list(dict.fromkeys([*self.fields, *together]))

    def suggest(self, trial: Any) -> dict[str, Any]:
        """The fields of an ``optuna.Trial``, drawn by the study's sampler or as it was enqueued."""
        found = {name: _suggest(trial, name, domain) for name, domain in self.fields.items()}
        if self.choices:
            chosen = trial.suggest_categorical(CHOICE, list(self.choices))
            for name, domain in self.choices[chosen].items():
                found[name] = _suggest(trial, f"{chosen}.{name}", domain)
        return found

    def with_seeds(self, seeds: int) -> "Space":
        """The space with the seeds 0, 1, ... in place of its own; as it is where ``seeds`` is 0."""
        if not seeds:
            return self
        # First, so that a grid has every combination once before it has one twice.
        fields = {"seed": tuple(range(seeds)), **_without_seed(self.fields)}
        choices = {chosen: _without_seed(group) for chosen, group in self.choices.items()}
        return replace(self, fields=fields, choices=choices)

    @property
    def finite(self) -> bool:
        """Whether every combination can be listed."""
        return not any(_endless(domain) for _, domain in self._domains())

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, as parameters that ``suggest`` takes when they are enqueued.

        Raises ``UserError`` where a field is a range without steps.
        """
        for name, domain in self._domains():
            if _endless(domain):
                raise UserError(
                    f"{self.where}: {name} is a range without a step, of which there is no grid. "
                    "Give it a step or values, or choose --sampler random or tpe."
                )
        groups: list[dict[str, Any]] = [{}]
        if self.choices:
            groups = [
                {CHOICE: chosen, **combination}
                for chosen, domains in self.choices.items()
                for combination in _product({f"{chosen}.{key}": it for key, it in domains.items()})
            ]
        plain = list(_product(self.fields))
        return [{**one, **group} for one in plain for group in groups]

    def _domains(self) -> Iterator[tuple[str, Domain]]:
        yield from self.fields.items()
        for chosen, domains in self.choices.items():
            yield from ((f"choices.{chosen}.{name}", domain) for name, domain in domains.items())


def load_space(name: str) -> Space:
    """Load a built-in space by its name, or any by the path of its TOML file.

    Raises ``UserError`` for an unknown name, a missing file, and as `parse_space` does.
    """
    return parse_space(*read_named(name, BUILT_IN, "space"))


def parse_space(text: str, where: str) -> Space:
    """Read a space's TOML ``text``; ``where`` names it in errors.

    ``[fixed]`` holds fields of the training configuration as they are in every trial. In
    ``[space]`` and in each ``[choices.NAME]`` a field is one value, ``{values = [...]}``, or
    ``{low = .., high = .., log = true, step = ..}``; of the choices a trial takes one.

    Raises ``UserError`` for TOML that does not parse, unknown fields, values that the field does
    not take, ranges without an end, and where nothing is searched.
    """
    table = parse_toml(text, where)
    reader = Reader(where)
    parts = {"title", "fixed", "space", "choices"}
    reader.check_keys(table, "", required=set(), optional=parts)
    fixed = reader.table(table, "fixed")
    _check_fields(reader, fixed, "fixed.", _NOT_SEARCHED - {"recipe", "competition", "monitor"})
    for name, value in fixed.items():
        _check_value(reader, f"fixed.{name}", name, value)
    searched = _domains(reader, reader.table(table, "space"), "space.")
    choices = {
        name: _domains(reader, _group(reader, group, name), f"choices.{name}.")
        for name, group in reader.table(table, "choices").items()
    }
    space = Space(text, where, reader.text(table, "title"), fixed, searched, choices)
    if not space.searched:
        raise reader.error("it searches nothing; name fields in [space] or [choices.NAME]")
    for name in fixed:
        if name in space.searched:
            raise reader.error(f"fixed.{name} is searched too; leave it out of one of them")
    for name in searched:
        if any(name in group for group in choices.values()):
            raise reader.error(f"{name} is both in [space] and in [choices]; leave it out of one")
    return space


def _group(reader: Reader, group: Any, name: str) -> dict[str, Any]:
    if not isinstance(group, dict) or not group:
        raise reader.error(f"choices.{name} must be a table of fields ([choices.{name}])")
    return group


def _domains(reader: Reader, table: Mapping[str, Any], prefix: str) -> dict[str, Domain]:
    _check_fields(reader, table, prefix, _NOT_SEARCHED)
    return {name: _domain(reader, prefix + name, name, it) for name, it in table.items()}


def _check_fields(
    reader: Reader, table: Mapping[str, Any], prefix: str, forbidden: set[str]
) -> None:
    known = {item.name for item in fields(TrainConfig)}
    reader.check_keys(table, prefix, required=set(), optional=known)
    for name in table:
        if name in forbidden:
            raise reader.error(
                f"{prefix}{name} says nothing of what is trained; give it as a flag after --"
            )


def _domain(reader: Reader, key: str, name: str, given: Any) -> Domain:
    if not isinstance(given, dict):
        return (_check_value(reader, key, name, given),)
    if "values" in given:
        reader.check_keys(given, f"{key}.", required={"values"}, optional=set())
        values = given["values"]
        if not isinstance(values, list) or not values:
            raise reader.error(f"{key}.values must be a list of at least one value")
        return tuple(_check_value(reader, f"{key}.values", name, value) for value in values)
    reader.check_keys(given, f"{key}.", required={"low", "high"}, optional={"log", "step"})
    kinds = TrainConfig.kinds(name)
    if not {int, float} & set(kinds):
        raise reader.error(f"{key} is no number; give it values = [...]")
    numbers = {part: given[part] for part in ("low", "high", "step") if part in given}
    for part, value in numbers.items():
        _check_value(reader, f"{key}.{part}", name, value)
    log = given.get("log", False)
    if type(log) is not bool or (log and "step" in given):
        raise reader.error(f"{key}.log must be true or false, and true only without a step")
    if not given["low"] < given["high"] or (log and given["low"] <= 0):
        least = "more than 0 and " if log else ""
        raise reader.error(f"{key}.low must be {least}less than {key}.high")
    if given.get("step", 1) <= 0:
        raise reader.error(f"{key}.step must be more than 0")
    return Range(given["low"], given["high"], log, given.get("step"), float not in kinds)


def _check_value(reader: Reader, key: str, name: str, value: Any) -> Any:
    """The value as the field has it, if it takes it by itself."""
    if not TrainConfig.takes(name, value):
        kinds = " or ".join(kind.__name__ for kind in TrainConfig.kinds(name))
        raise reader.error(f"{key} is {value!r} but must be a {kinds}")
    return float(value) if float in TrainConfig.kinds(name) else value


def _without_seed(domains: Mapping[str, Domain]) -> dict[str, Domain]:
    return {name: domain for name, domain in domains.items() if name != "seed"}


def _suggest(trial: Any, name: str, domain: Domain) -> Any:
    if isinstance(domain, Range):
        if domain.whole:
            low, high, step = int(domain.low), int(domain.high), int(domain.step or 1)
            return trial.suggest_int(name, low, high, step=step, log=domain.log)
        return trial.suggest_float(name, domain.low, domain.high, step=domain.step, log=domain.log)
    if len(domain) == 1:
        return domain[0]
    # Lists are no parameters of Optuna's.
    texts = {_parameter(value): value for value in domain}
    return texts[trial.suggest_categorical(name, list(texts))]


def _parameter(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _endless(domain: Domain) -> bool:
    if not isinstance(domain, Range):
        return False
    return domain.step is None and (domain.log or not domain.whole)


def _product(domains: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    several = {name: list(_listed(it)) for name, it in domains.items() if _parameters(it)}
    for values in itertools.product(*several.values()):
        yield dict(zip(several, values, strict=True))


def _parameters(domain: Domain) -> bool:
    return isinstance(domain, Range) or len(domain) > 1


def _listed(domain: Domain) -> Iterator[Any]:
    if not isinstance(domain, Range):
        yield from map(_parameter, domain)
        return
    step = domain.step or 1
    for n in range(int((domain.high - domain.low) / step + 1e-9) + 1):
        value = domain.low + n * step
        yield (
            int(value) if domain.whole else round(float(value), 12)
        )  # 0.3 and not 0.30000000000000004
