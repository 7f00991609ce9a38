"""kernel-metadata.json, read and checked before anything is sent.

The Kaggle client ignores keys that it does not know and fills in those that are missing, internet
switched on among them. So every key has to be written, and none may be unknown.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from xraycomp.console.errors import UserError
from xraycomp.data.files import write_text

METADATA_FILE = "kernel-metadata.json"
PLACEHOLDER = "INSERT_USERNAME"
"""Stands for the user's name in an ``id`` until ``write_owner`` puts it there."""

# All but the T4 and the TPU v5e are for participants of certain competitions.
GPUS = (
    "NvidiaTeslaT4",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaTeslaA100",
    "NvidiaH100",
    "NvidiaRtxPro6000",
)
TPUS = ("TpuV5E8", "TpuV6E8", "Tpu1VmV38", "TpuV38")
UNAVAILABLE = {
    "NvidiaTeslaP100": "was retired by Kaggle; use NvidiaTeslaT4",
    "NvidiaTeslaT4Highmem": "is Kaggle's own; use NvidiaTeslaT4, which is two T4",
}
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_SOURCES = {
    "dataset_sources": (rf"{_NAME}/{_NAME}(/\d+)?", "owner/slug"),
    "competition_sources": (_NAME, "a bare slug"),
    "kernel_sources": (rf"{_NAME}/[A-Za-z0-9_-]{{5,}}(/\d+)?", "owner/slug"),
    "model_sources": (
        rf"{_NAME}/{_NAME}/{_NAME}/[A-Za-z0-9._-]+/\d+",
        "owner/slug/framework/variation/version",
    ),
}


@dataclass(frozen=True)
class KernelMetadata:
    """What the file says; the fields are its keys."""

    id: str
    title: str
    code_file: str
    language: str
    kernel_type: str
    is_private: bool
    enable_gpu: bool
    enable_tpu: bool
    enable_internet: bool
    machine_shape: str
    """The accelerator; empty for none."""
    keywords: tuple[str, ...]
    dataset_sources: tuple[str, ...]
    competition_sources: tuple[str, ...]
    kernel_sources: tuple[str, ...]
    model_sources: tuple[str, ...]
    docker_image: str | None
    """One of Kaggle's images; None for the one that the pinning type chooses."""
    docker_image_pinning_type: str
    """``original``: every version runs in the first one's image; ``latest``: in the newest."""

    @property
    def has_owner(self) -> bool:
        """Whether the ``id`` holds a user's name, which as shipped it does not."""
        return not self.id.startswith(f"{PLACEHOLDER}/")

    @property
    def owner(self) -> str:
        """Whose kernel it is. Raises ``UserError`` while the id names nobody."""
        if not self.has_owner:
            raise UserError(
                f"The id in {METADATA_FILE} of {self.slug} still holds {PLACEHOLDER}. Write your "
                f"Kaggle user name there: python -m xraycomp.kernel build {self.slug} --owner NAME"
            )
        return self.id.partition("/")[0]

    @property
    def slug(self) -> str:
        """The kernel's own name."""
        return self.id.partition("/")[2]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """All that is attached: competition, dataset, kernel or model, and its name."""
        kinds = ("competition", "dataset", "kernel", "model")
        return [(kind, name) for kind in kinds for name in getattr(self, f"{kind}_sources")]


def unversioned(source: str) -> str:
    """A source's name, ``slug`` or ``owner/slug``, without the version that may follow."""
    return "/".join(source.split("/")[:2])


def read_metadata(folder: Path, *, allow_internet: bool = False) -> KernelMetadata:
    """Read and check the file in ``folder``.

    Raises ``UserError`` with everything that is wrong: unknown, missing and repeated keys, wrong
    types, names that Kaggle would refuse or change, sources of a wrong form, an accelerator that
    is not there, internet without ``allow_internet``.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        raise UserError(f"{folder} is no kernel: it has no {METADATA_FILE}. Check the path.")
    problems: list[str] = []

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        problems.extend(f"{key} is written twice" for key in repeated)
        return dict(pairs)

    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=no_repeats)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a JSON object ({{...}}).")
    problems += _check_keys(values)
    well_typed = {key for key in values if key in _TYPES and _TYPES[key][0](values[key])}
    problems += [
        f"{key} must be {_TYPES[key][1]}" for key in values if key in _TYPES.keys() - well_typed
    ]
    for needed, check in _CHECKS:
        if needed <= well_typed:
            problems += check(values)
    if values.get("enable_internet") is True and not allow_internet:
        problems.append(
            "enable_internet is true: many competitions forbid it; write false, or build with "
            "--allow-internet"
        )
    slug = str(values.get("id", "")).partition("/")[2]
    if slug and folder.resolve().name != slug:
        problems.append(
            f"the folder is called {folder.resolve().name} but id names the kernel {slug}, which a "
            "push would overwrite; change id and title, or rename the folder"
        )
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}.")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return KernelMetadata(**given)


def write_owner(folder: Path, owner: str) -> None:
    """Put ``owner`` into the file's ``id`` and wherever its sources name nobody yet.

    Raises ``UserError`` for what is no Kaggle user name.
    """
    if not re.fullmatch(_NAME, owner) or owner == PLACEHOLDER:
        raise UserError(
            f"{owner!r} is no Kaggle user name. Take the one in the address of your profile: "
            "https://www.kaggle.com/NAME."
        )
    path = folder / METADATA_FILE
    if not path.is_file():
        raise UserError(f"{folder} is no kernel: it has no {METADATA_FILE}. Check the path.")
    text = path.read_text(encoding="utf-8")
    changed = re.sub(r'("id"\s*:\s*")[^"/]*(/)', rf"\g<1>{owner}\g<2>", text, count=1)
    changed = changed.replace(f'"{PLACEHOLDER}/', f'"{owner}/')
    if changed != text:
        write_text(path, changed)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_TEXT = (lambda value: isinstance(value, str), "a text")
_SWITCH = (lambda value: isinstance(value, bool), "true or false, without quotes")
_TEXTS = (_is_texts, "a list of texts")
_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    str: _TEXT,
    bool: _SWITCH,
    tuple[str, ...]: _TEXTS,
    str | None: (lambda value: value is None or isinstance(value, str), "a text or null"),
}
_TYPES = {field.name: _KINDS[field.type] for field in fields(KernelMetadata)}


def _check_keys(values: dict[str, Any]) -> list[str]:
    problems = []
    missing = [key for key in _TYPES if key not in values]
    for key in values.keys() - _TYPES.keys():
        close = get_close_matches(key, missing or _TYPES, n=1)
        problems.append(f"unknown key {key}" + (f", did you mean {close[0]}" if close else ""))
    if missing:
        problems.append(f"missing, though the client would fill them in: {', '.join(missing)}")
    return sorted(problems, reverse=True)


def _check_names(values: dict[str, Any]) -> list[str]:
    # The client's own dependency, and not on Kaggle's side of a kernel.
    from slugify import slugify

    title, (owner, _, slug) = values["title"], values["id"].partition("/")
    problems = []
    if not re.fullmatch(_NAME, owner) or not re.fullmatch(r"[a-z0-9-]+", slug):
        problems.append(f"id is {values['id']!r} but must be owner/slug")
    problems += [
        f"the {what} {name!r} has {len(name)} characters; Kaggle takes 5 to 50"
        for what, name in (("title", title), ("slug", slug))
        if not 5 <= len(name) <= 50
    ]
    if slugify(title) != slug:
        problems.append(
            f"Kaggle would call the title {title!r} {slugify(title)!r}, not {slug!r}; "
            "make them agree"
        )
    return problems


def _check_code(values: dict[str, Any]) -> list[str]:
    problems = []
    path = PurePosixPath(values["code_file"].replace("\\", "/"))
    if len(path.parts) != 1 or path.suffix != ".py" or path.name == "train.py":
        problems.append(
            f"code_file is {values['code_file']!r} but must be the name of the built .py file in "
            "this folder, other than train.py"
        )
    for key, wanted in (("language", "python"), ("kernel_type", "script")):
        if values[key] != wanted:
            problems.append(f"{key} is {values[key]!r} but a bundle is a {wanted}")
    if values["docker_image_pinning_type"] not in ("original", "latest"):
        problems.append("docker_image_pinning_type must be original or latest")
    return problems


def _check_machine(values: dict[str, Any]) -> list[str]:
    shape, gpu, tpu = (values[key] for key in ("machine_shape", "enable_gpu", "enable_tpu"))
    if shape in UNAVAILABLE:
        return [f"machine_shape {shape} {UNAVAILABLE[shape]}"]
    if shape not in ("", *GPUS, *TPUS):
        close = get_close_matches(shape, GPUS + TPUS, n=1)
        hint = f", did you mean {close[0]}" if close else f" ({', '.join(GPUS + TPUS)}, or empty)"
        return [f"machine_shape {shape!r} is not known{hint}"]
    if (gpu, tpu) != (shape in GPUS, shape in TPUS):
        said = f"enable_gpu {json.dumps(gpu)} and enable_tpu {json.dumps(tpu)}"
        return [f"machine_shape {shape!r} does not agree with {said}"]
    return []


def _check_sources(values: dict[str, Any]) -> list[str]:
    return [
        f"{source!r} in {key} must be {form}"
        for key, (pattern, form) in _SOURCES.items()
        if key in values and _is_texts(values[key])
        for source in values[key]
        if not re.fullmatch(pattern, source)
    ]


_CHECKS: list[tuple[set[str], Callable[[dict[str, Any]], list[str]]]] = [
    ({"id", "title"}, _check_names),
    ({"code_file", "language", "kernel_type", "docker_image_pinning_type"}, _check_code),
    ({"machine_shape", "enable_gpu", "enable_tpu"}, _check_machine),
    (set(), _check_sources),
]
