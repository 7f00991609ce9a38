"""Search spaces: what they mean, and what is refused."""

import itertools
from collections.abc import Mapping
from typing import Any

import optuna
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.toml import built_in_names
from xraycomp.model.config import TrainConfig
from xraycomp.model.zoo import create_model
from xraycomp.studies.space import BUILT_IN, load_space, parse_space

BOTH = """
[fixed]
epochs = 3
warmup_epochs = 2

[space]
seed = { values = [0, 1] }
rotation = { low = 0, high = 0.3, step = 0.1 }

[choices.sgd]
optimizer = "sgd"
lr = { values = [0.01, 0.1] }

[choices.adamw]
optimizer = "adamw"
lr = { low = 1, high = 2, step = 1 }
weight_decay = 0.1
"""


def resolved(params: Mapping[str, Any], text: str = BOTH) -> dict[str, Any]:
    return parse_space(text, "x.toml").suggest(optuna.trial.FixedTrial(dict(params)))


def test_a_grid_is_the_product_of_the_space_and_the_sum_of_the_choices():
    space = parse_space(BOTH, "x.toml")
    found = [resolved(params) for params in space.grid()]
    groups = [{"optimizer": "sgd", "lr": lr} for lr in (0.01, 0.1)]
    groups += [{"optimizer": "adamw", "lr": lr, "weight_decay": 0.1} for lr in (1.0, 2.0)]
    expected = [
        {"seed": seed, "rotation": rotation, **group}
        for seed, rotation, group in itertools.product((0, 1), (0.0, 0.1, 0.2, 0.3), groups)
    ]
    assert found == expected
    assert space.searched == ["seed", "rotation", "optimizer", "lr", "weight_decay"]
    assert space.fixed == {"epochs": 3, "warmup_epochs": 2}
    # A float field is one, however TOML writes it.
    assert all(type(row["lr"]) is float for row in found)


def test_samplers_draw_from_the_space():
    text = "[space]\nlr = {low = 0.001, high = 0.1, log = true}\nepochs = {low = 2, high = 4}\n"
    space = parse_space(text + "head = {values = [[], [64, 32]]}\n", "x.toml")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = [space.suggest(study.ask()) for _ in range(200)]
    assert {row["epochs"] for row in found} == {2, 3, 4}
    assert [row["head"] for row in found if row["head"]].count([64, 32]) > 50
    # Half of them on each side of the geometric mean.
    assert 70 < sum(row["lr"] < 0.01 for row in found) < 130
    TrainConfig(**found[0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[space\n", "x.toml is not valid TOML"),
        ("", "x.toml: it searches nothing"),
        ("[space]\nlrr = 1", r"x.toml: unknown key space\.lrr; did you mean space\.lr"),
        ("[spaces]\nlr = 1", "x.toml: unknown key spaces; did you mean space"),
        ("[space]\nlr = {values = []}", r"space\.lr\.values must be a list of at least one"),
        ("[space]\nlr = {values = ['a']}", r"space\.lr\.values is 'a' but must be a float"),
        ("[space]\nlr = {low = 1}", r"the key space\.lr\.high is missing"),
        ("[space]\nlr = {low = 2, high = 1}", r"space\.lr\.low must be less than space\.lr\.high"),
        ("[space]\nlr = {low = 0, high = 1, log = true}", "must be more than 0 and less than"),
        ("[space]\nlr = {low = 1, high = 2, step = 0}", r"space\.lr\.step must be more than 0"),
        ("[space]\nlr = {low = 1, high = 2, step = 1, log = true}", "true only without a step"),
        ("[space]\nepochs = {low = 1, high = 2.5}", r"space\.epochs\.high is 2\.5 but must be a"),
        ("[space]\narch = {low = 1, high = 2}", r"space\.arch is no number; give it values"),
        ("[space]\ndevice = 'cpu'", r"space\.device says nothing of what is trained"),
        ("[space]\nlr = 1\n[fixed]\nlr = 1", r"fixed\.lr is searched too"),
        ("[space]\nlr = 1\n[choices.a]\nlr = 1", r"lr is both in \[space\] and in \[choices\]"),
        ("[choices]\nlr = 1", r"choices\.lr must be a table of fields"),
    ],
)
def test_a_wrong_space_is_named_with_file_and_key(text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_space(text, "x.toml")


@pytest.mark.parametrize("name", built_in_names(BUILT_IN))
def test_ready_made_spaces_hold_settings_that_training_takes(name):
    space = load_space(name)
    assert space.title
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    if space.finite:
        for params in space.grid():
            study.enqueue_trial(params)
    for _ in range(len(space.grid()) if space.finite else 50):
        TrainConfig(**{**space.fixed, **space.suggest(study.ask())})


def test_the_networks_of_the_ready_made_space_are_there():
    (archs,) = load_space("architecture").fields.values()
    for arch in archs:
        if arch not in ("timm:nasnetalarge", "vgg19_bn"):  # hundreds of megabytes each
            assert create_model(arch, 2) is not None
