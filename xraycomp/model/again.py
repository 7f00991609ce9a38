"""The commands that train a run again, and that go on with it."""

import json
import shlex
from typing import Any

from xraycomp.model.config import TrainConfig
from xraycomp.model.recipes import RECIPES
from xraycomp.model.run import RunFolder

# What says where things lie or how far a run had come, and not what is trained.
_LEFT_OUT = {"name", "resume", "overwrite", "data_dir", "runs_dir", "submissions_dir", "track"}


def train_again(run: RunFolder) -> str:
    """The command that trains this run again, with the flags that its recipes do not imply; of
    averaged runs, the one that averages them."""
    if run.soup.is_file():
        members = json.loads(run.soup.read_text(encoding="utf-8"))["members"]
        paths = [member["run"] for member in members]
        return shlex.join(["python", "-m", "xraycomp.soup", "--runs", *paths, "--name", run.name])
    config = run.config()
    recipe = {**run.competition().recipe, **RECIPES[config.recipe]}
    implied = TrainConfig.from_recipe(recipe, f"the recipe of {run.path}").to_json()
    words = ["python", "-m", "xraycomp.train"]
    for name, value in config.to_json().items():
        if name not in _LEFT_OUT and value != implied[name] and value is not None:
            words += _flag(name, value)
    return shlex.join(words)


def resume_command(run: RunFolder) -> str:
    """What goes on with a run; with the whole, where it is one of its folds."""
    return f"python -m xraycomp.train --resume {run.whole.path}"


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list | tuple):
        return [f"--{flag}", *map(str, value)]
    return [f"--{flag}", str(value)]
