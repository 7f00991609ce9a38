"""What a configuration refuses, how it is written, and what a recipe may say."""

import dataclasses
import json
from pathlib import Path

import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import built_in_slugs, load_competition
from xraycomp.data.split import SplitPlan
from xraycomp.model.config import TrainConfig
from xraycomp.model.recipes import RECIPES


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("image_size", 0, "--image-size is 0; it must be at least 1."),
        ("epochs", 0, "--epochs is 0; it must be at least 1."),
        ("batch_size", -1, "--batch-size is -1; it must be at least 1."),
        ("accumulate", 0, "--accumulate is 0; it must be at least 1."),
        ("lr", -0.1, "--lr is -0.1; it must be 0 or more."),
        ("lr", float("nan"), "--lr is nan; it must be 0 or more."),
        ("momentum", -1.0, "--momentum is -1.0; it must be 0 or more."),
        ("weight_decay", -1.0, "--weight-decay is -1.0; it must be 0 or more."),
        ("warmup_epochs", -1.0, "--warmup-epochs is -1.0; it must be 0 or more."),
        ("clip_grad", -1.0, "--clip-grad is -1.0; it must be 0 or more."),
        ("mixup", -1.0, "--mixup is -1.0; it must be 0 or more."),
        ("seed", -1, "--seed is -1; it must be 0 or more."),
        ("label_smoothing", 1.0, "--label-smoothing is 1.0; it must be at least 0 and below 1."),
        ("ema_decay", 1.0, "--ema-decay is 1.0; it must be at least 0 and below 1."),
        ("scale", 1.5, "--scale is 1.5; it must be at least 0 and below 1."),
        ("shift", -0.1, "--shift is -0.1; it must be at least 0 and below 1."),
        ("brightness", 1.0, "--brightness is 1.0; it must be at least 0 and below 1."),
        ("contrast", -0.5, "--contrast is -0.5; it must be at least 0 and below 1."),
        ("erasing", 1.5, "--erasing is 1.5; it must be a probability from 0 to 1."),
        ("resize_size", 200, "--resize-size is 200; it must be image_size or more."),
        ("time_limit", 0.0, "--time-limit is 0.0; it must be more than 0 minutes."),
        ("workers", 0, "--workers is 0; it must be at least 1."),
        ("devices", 0, "--devices is 0; it must be at least 1."),
        ("gamma", -1.0, "--gamma is -1.0; it must be 0 or more."),
        ("alpha", 1.5, "--alpha is 1.5; it must be from 0 to 1."),
        ("margin", 1.0, "--margin is 1.0; it must be at least 0 and below 1."),
        ("max_weight", 0.0, "--max-weight is 0.0; it must be more than 0."),
        ("pool", "mean", "--pool is mean; it must be one of avg, max, attention."),
        ("head", (64, 0), "--head is (64, 0); it must be a list of widths of at least 1."),
        ("head", ("64",), "--head is ('64',); it must be a list of widths of at least 1."),
        ("codes_epochs", -1, "--codes-epochs is -1; it must be 0 or more."),
        ("codes_passes", -1, "--codes-passes is -1; it must be 0 or more."),
        ("optimizer", "rmsprop", "--optimizer is rmsprop; it must be one of sgd, adam, adamw."),
        (
            "schedule",
            "linear",
            "--schedule is linear; it must be one of cosine, onecycle, step, constant.",
        ),
        (
            "monitor",
            "f1",
            "--monitor is f1; it must be one of val_macro_f1, val_auroc, val_accuracy, val_loss.",
        ),
        ("name", "..", "--name is ..; it must be a plain folder name."),
        ("name", ".", "--name is .; it must be a plain folder name."),
        ("name", "a/b", "--name is a/b; it must be a plain folder name."),
        ("name", "/tmp", "--name is /tmp; it must be a plain folder name."),
    ],
)
def test_a_value_outside_its_range_is_refused_in_one_sentence(field, value, sentence):
    with pytest.raises(UserError) as caught:
        TrainConfig(**{field: value})
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("fields", "cached"),
    [
        ({"image_size": 224}, 256),
        ({"image_size": 32}, 37),
        ({"image_size": 224, "resize_size": 224}, 224),
        ({"image_size": 224, "resize_size": 300}, 300),
    ],
)
def test_images_are_cached_an_eighth_larger_unless_told(fields, cached):
    assert TrainConfig(**fields).cache_size == cached


CHANGED = TrainConfig(
    competition="mine.toml",
    data=Path("some/where.zip"),
    name="a run",
    resume=Path("runs/x"),
    overwrite=True,
    head=(64, 32),
    resize_size=300,
    lr=0.1,
    optimizer="adamw",
    flip=False,
    time_limit=1.5,
    workers=3,
    data_dir=Path("/d"),
    runs_dir=Path("r"),
    submissions_dir=Path("s"),
)


@pytest.mark.parametrize("config", [TrainConfig(), CHANGED], ids=["defaults", "changed"])
def test_json_and_back_gives_the_same_configuration(config):
    text = json.dumps(config.to_json())
    assert set(json.loads(text)) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert TrainConfig.from_json(json.loads(text)) == config


def test_a_recipe_goes_over_the_defaults_and_under_what_is_given():
    recipe = {"lr": 0.5, "epochs": 3, "schedule": "onecycle"}
    config = TrainConfig.from_recipe(recipe, "x.toml", epochs=7, batch_size=4)
    assert (config.lr, config.schedule) == (0.5, "onecycle")
    assert (config.epochs, config.batch_size) == (7, 4)
    untouched = TrainConfig(lr=0.5, epochs=7, schedule="onecycle", batch_size=4)
    assert config == untouched


def test_a_recipe_s_list_is_a_head():
    assert TrainConfig.from_recipe({"head": [64, 32]}, "x.toml").head == (64, 32)


def test_an_empty_recipe_is_the_defaults():
    assert TrainConfig.from_recipe({}, "x.toml") == TrainConfig()


def test_a_whole_number_will_do_for_a_fraction():
    assert TrainConfig.from_recipe({"lr": 1, "warmup_epochs": 0}, "x.toml").lr == 1
    assert TrainConfig.from_recipe({"time_limit": 5, "resize_size": 256}, "x").cache_size == 256


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"epoch": 3}, r"x\.toml: unknown key recipe\.epoch; did you mean recipe\.epochs\."),
        ({"zzz": 3}, r"x\.toml: unknown key recipe\.zzz\."),
        ({"epochs": "3"}, r"x\.toml: recipe\.epochs is '3' but must be a int\."),
        ({"epochs": True}, r"x\.toml: recipe\.epochs is True but must be a int\."),
        ({"epochs": 2.5}, r"x\.toml: recipe\.epochs is 2\.5 but must be a int\."),
        ({"flip": 1}, r"x\.toml: recipe\.flip is 1 but must be a bool\."),
        ({"lr": True}, r"x\.toml: recipe\.lr is True but must be a float\."),
        ({"lr": "fast"}, r"x\.toml: recipe\.lr is 'fast' but must be a float\."),
        ({"resize_size": "256"}, r"x\.toml: recipe\.resize_size is '256' but must be a int\."),
        ({"time_limit": "long"}, r"x\.toml: recipe\.time_limit is 'long' but must be a float\."),
        ({"optimizer": 1}, r"x\.toml: recipe\.optimizer is 1 but must be a str\."),
        ({"optimizer": "rmsprop"}, "must be one of sgd, adam, adamw"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"head": 64}, r"x\.toml: recipe\.head is 64 but must be a list\."),
    ],
)
def test_a_wrong_recipe_is_refused_and_the_file_named(recipe, sentence):
    with pytest.raises(UserError, match=sentence):
        TrainConfig.from_recipe(recipe, "x.toml")


def test_the_images_are_parted_as_the_settings_say():
    given = {"test_fraction": 0.2, "val_fraction": 0.3, "folds": 5, "fold": 3, "seed": 7}
    plan = TrainConfig(**given, drop_no_finding=True).split_plan()
    assert plan == SplitPlan(**given, drop_no_finding=True)


@pytest.mark.parametrize("slug", built_in_slugs())
def test_the_recipes_that_come_with_the_kit_are_sound(slug):
    assert TrainConfig.from_recipe(load_competition(slug).recipe, slug)


def test_a_run_goes_on_elsewhere_and_longer_but_never_with_other_settings():
    saved = TrainConfig(weights="/kaggle/input/a/net.pth", competition="mine.toml", epochs=3)
    moved = TrainConfig(
        weights="net.pth",
        competition="kernels/mine/mine.toml",
        epochs=3,
        resume=Path("runs/x"),
        data=Path("elsewhere.zip"),
        data_dir=Path("/tmp"),
        time_limit=5,
        device="cpu",
        devices=2,
        workers=1,
    )
    moved.check_resumed(saved, "runs/x")
    for changes in ({"epochs": 10}, {"weights": "other.pth"}, {"weights": "none"}, {"seed": 1}):
        (name,) = changes
        with pytest.raises(UserError, match=f"^runs/x was started with --{name} .* cannot go on"):
            dataclasses.replace(moved, **changes).check_resumed(saved, "runs/x")


@pytest.mark.parametrize("name", [name for name in RECIPES if name])
def test_a_named_recipe_goes_over_the_competition_s_and_under_what_is_given(name):
    own = load_competition("chest-xray-4").recipe
    config = TrainConfig.for_competition("chest-xray-4", recipe=name, lr=0.5)
    assert config.lr == 0.5
    assert config.recipe == name
    for key, value in {**own, **RECIPES[name]}.items():
        assert key == "lr" or getattr(config, key) == value
    assert RECIPES[name].keys() & own.keys()  # else there was nothing to go over


def test_training_images_grow_from_their_first_size_to_the_last():
    config = TrainConfig(image_size=128, start_size=64, epochs=9)
    assert [config.training_size(epoch) for epoch in range(9)] == [
        64,
        80,
        80,
        96,
        112,
        112,
        *[128] * 3,
    ]
    assert TrainConfig(image_size=128, epochs=9).training_size(0) == 128
    assert TrainConfig(image_size=100, start_size=99, epochs=9).training_size(8) == 100
    with pytest.raises(UserError, match=r"--start-size is 129; it must be image_size or less\."):
        TrainConfig(image_size=128, start_size=129)


def test_a_competitions_settings_take_a_name_for_the_run():
    config = TrainConfig.for_competition("phantom", name="as-kernels-do")
    assert (config.competition, config.name) == ("phantom", "as-kernels-do")
