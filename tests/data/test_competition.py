"""Competition files: the built-in ones, the way there and back, and every mistake in one."""

import re

import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import (
    built_in_slugs,
    format_competition,
    load_competition,
    parse_competition,
)
from xraycomp.model.config import TrainConfig

FOLDERS = """
slug = "mine"
source = "dataset"
task = "multiclass"
classes = ["covid", "lung_opacity", "normal"]
metric = "macro_f1"

[train]
images = "train"
labels = "folders"

[test]
images = "test"

[submission.columns]
name = "id"
target = "label_index"
"""

TABLE = r"""
slug = "with-table"
title = 'A "quoted" title, with umlauts: Röntgen'
source = "competition"
task = "binary"
classes = ["a b", "ü"]
metric = "hard_label_auroc"
normal = "a b"
positive = "ü"

[train]
images = "images_*/images"
labels = "labels.csv"
image_column = "Image Index"
label_column = "Finding"

[test]
images = "test"

[patient]
pattern = '^(p\d+)_"\\'

[submission]
sample = "sample.csv"
suffix = true

[submission.columns]
"the id" = "id"
"p(ü)" = "probability:ü"

[recipe]
lr = 0.05
epochs = 3
flip = false
arch = "resnet18"
"""

FINDINGS = """
slug = "findings"
source = "dataset"
task = "multilabel"
classes = ["Mass", "Pleural Effusion"]
metric = "auroc"

[train]
images = "images"
labels = "images.csv"
image_column = "Image"
label_column = "Finding"
separator = ";"
none = "normal"
others = "ignore"
join = "reports.csv"
join_column = "uid"
train_list = "train.txt"
test_list = "test.txt"

[train.where]
projection = "Frontal"
"The quality" = ["good", "fair"]

[train.names]
"Effusion, pleural" = "Pleural Effusion"

[train.columns]
"age in years" = "Alter, Jahre"
"""


@pytest.mark.parametrize("slug", built_in_slugs())
def test_every_built_in_competition_loads_and_bears_its_file_name(slug):
    competition = load_competition(slug)
    assert competition.slug == slug
    assert competition.normal in competition.classes or competition.multilabel
    TrainConfig.from_recipe(competition.recipe, slug)


def test_the_built_in_competitions_are_those_of_the_readme():
    assert built_in_slugs() == [
        "acse4-ml-2020",
        "chest-xray-4",
        "nih-chest-xrays",
        "openi-nodule",
        "pediatric-pneumonia",
        "phantom",
    ]


def test_acse4_numbers_its_classes_as_the_competition_does_and_not_alphabetically():
    competition = load_competition("acse4-ml-2020")
    assert competition.classes == ("covid", "lung_opacity", "pneumonia", "normal")
    assert competition.positive == "covid"
    assert competition.metric == "hard_label_auroc"


@pytest.mark.parametrize(
    "competition",
    [
        *map(load_competition, built_in_slugs()),
        parse_competition(TABLE, "mine.toml"),
        parse_competition(FINDINGS, "mine.toml"),
    ],
    ids=lambda competition: competition.slug,
)
def test_a_formatted_competition_parses_to_an_equal_one(competition):
    assert parse_competition(format_competition(competition), "again.toml") == competition


def test_a_competition_is_loaded_from_the_path_of_a_toml_file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(TABLE, encoding="utf-8")
    competition = load_competition(str(path))
    assert competition.title == 'A "quoted" title, with umlauts: Röntgen'
    assert competition.train.image_column == "Image Index"
    assert list(competition.submission.columns) == ["the id", "p(ü)"]
    assert competition.submission.id_column == "the id"


def test_the_title_is_the_slug_where_none_is_given():
    assert parse_competition(FOLDERS, "mine.toml").title == "mine"


def test_an_unknown_slug_names_the_nearest_one():
    with pytest.raises(UserError, match="Did you mean chest-xray-4"):
        load_competition("chest-xray4")


def test_a_missing_toml_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no competition file .*gone\.toml"):
        load_competition(str(tmp_path / "gone.toml"))


def test_a_toml_file_that_is_not_utf_8_is_refused(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes(TABLE.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_competition(str(path))


def change(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('slug = "mine"', "slug = mine", "not valid TOML"),
        ('slug = "mine"', 'slug = "mine"\nclases = []', "unknown key clases; did you mean classes"),
        ("[train]", '[train]\nlabel = "x"', "unknown key train.label; did you mean train.labels"),
        ("[test]", '[test]\nimage = "x"', "unknown key test.image; did you mean test.images"),
        ("[test]", '[patient]\ncolum = "x"\n\n[test]', "did you mean patient.column"),
        ('slug = "mine"\n', "", "the key slug is missing"),
        ('labels = "folders"\n', "", "the key train.labels is missing"),
        ('[test]\nimages = "test"', '[test]\nother = "x"', "unknown key test.other"),
        ('slug = "mine"', "slug = 4", "slug must be a text in quotes"),
        ('slug = "mine"', 'slug = "../mine"', "letters, digits"),
        ('images = "test"', "images = 3", "images must be a text in quotes"),
        ('["covid", "lung_opacity", "normal"]', '"covid"', "classes must be a list of texts"),
        ('["covid", "lung_opacity", "normal"]', "[0, 1]", "classes must be a list of texts"),
        ('["covid", "lung_opacity", "normal"]', '["covid"]', "at least two classes"),
        ('"lung_opacity"', '"covid"', "each once"),
        ('source = "dataset"', 'source = "internet"', "competition, dataset, drawn"),
        ('task = "multiclass"', 'task = "regression"', "multiclass, binary, multilabel"),
        ('task = "multiclass"', 'task = "binary"', "binary but classes does not name exactly two"),
        ('task = "multiclass"', 'task = "multilabel"', "needs a CSV table"),
        ('metric = "macro_f1"', 'metric = "f1"', "macro_f1"),
        ('metric = "macro_f1"', 'metric = "hard_label_auroc"', "needs the key positive"),
        ('metric = "macro_f1"', 'metric = "macro_f1"\nnormal = "healthy"', "normal = 'healthy'"),
        ("[test]", "[patient]\npattern = '(p'\n\n[test]", "not a regular expression"),
        ("[test]", "[patient]\npattern = 'p'\n\n[test]", "needs a group"),
        ("[test]", "[patient]\ncolumn = 'p'\n\n[test]", "not a CSV table"),
        ('labels = "folders"', 'labels = "labels.csv"', "needs train.image_column"),
        ('labels = "folders"', 'labels = "folders"\nimage_column = "x"', "not a CSV table"),
        ('target = "label_index"', 'target = "label_number"', "'label_number' is not one of"),
        ('target = "label_index"', 'target = "probability:tb"', "'probability:tb' is not one of"),
        ('target = "label_index"', "", "one with a prediction"),
        ('target = "label_index"', 'target = "id"', 'needs one column = "id"'),
        ('[test]\nimages = "test"\n', "", r"a \[submission\] but no \[test\]"),
        ("[submission.columns]", "[submission]\nsuffix = 1\n\n[submission.columns]", "suffix"),
        ('images = "train"', 'images = "/abs/train"', "train.images"),
        ('images = "train"', 'images = "../train"', "train.images"),
        ('images = "test"', 'images = ""', "test.images"),
        ("[test]", "[train.columns]\npath = 'View'\n\n[test]", "called 'path', which is taken"),
        ("[test]", "[train.columns]\nview = ''\n\n[test]", "train.columns.view is empty"),
        ("[test]", "[train.columns]\nview = 1\n\n[test]", "view must be a text in quotes"),
        ("[test]", "[train.columns]\nview = 'View'\n\n[test]", "not a CSV table"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_the_file_and_the_key(old, new, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        parse_competition(change(FOLDERS, old, new), "mine.toml")
    assert str(caught.value).startswith("mine.toml")
    assert "\n" not in str(caught.value)


def test_the_keys_of_a_label_table_are_read():
    train = parse_competition(FINDINGS, "mine.toml").train
    assert train.where == {"projection": ("Frontal",), "The quality": ("good", "fair")}
    assert train.names == {"Effusion, pleural": "Pleural Effusion"}
    assert (train.none, train.others, train.join, train.join_column) == (
        *("normal", "ignore", "reports.csv", "uid"),
    )


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('image_column = "Image"\n', "", "needs train.image_column"),
        ('label_column = "Finding"\n', "", "train.label_column is not"),
        ('others = "ignore"', 'others = "drop"', "others = 'drop' is not one of: ignore"),
        ('join = "reports.csv"\n', "", "train.join and train.join_column need each other"),
        ('join_column = "uid"\n', "", "train.join and train.join_column need each other"),
        ('test_list = "test.txt"\n', "", "train.train_list and train.test_list need each other"),
        ('"test.txt"', '"../test.txt"', "train.test_list = '../test.txt' must lie below"),
        ('"reports.csv"', '"/reports.csv"', "train.join = '/reports.csv' must lie below"),
        ("[train.where]", '[test]\nimages = "t"\n[train.where]', "one test set is enough"),
        ('"multilabel"', '"binary"', "train.none is for multilabel"),
        ('["Mass",', '["Ma|ss",', r"the class 'Ma\|ss' may hold no \|"),
        ('["Mass",', '["?Mass",', r"not begin with \?"),
        ('projection = "Frontal"', "projection = 3", "projection must be a list of texts"),
        ('= "Pleural Effusion"', '= "Effusion"', "= 'Effusion' is not one of: Mass, Pleural"),
        ("[train.where]", "[train.were]", "unknown key train.were; did you mean train.where"),
        ('"images.csv"', '"folders"', "not a CSV table"),
    ],
)
def test_keys_of_a_label_table_that_contradict_each_other_are_told(old, new, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        parse_competition(change(FINDINGS, old, new), "mine.toml")
    assert str(caught.value).startswith("mine.toml")


def test_patient_column_and_pattern_together_are_refused():
    text = change(TABLE, "[patient]", '[patient]\ncolumn = "Patient"')
    with pytest.raises(UserError, match="one is enough"):
        parse_competition(text, "mine.toml")


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        ({"learning_rate": 0.1}, "unknown key recipe.learning_rate"),
        ({"batchsize": 8}, "did you mean recipe.batch_size"),
        ({"epochs": "3"}, "recipe.epochs is '3' but must be a int"),
        ({"flip": 1}, "recipe.flip is 1 but must be a bool"),
        ({"epochs": True}, "must be a int"),
        ({"lr": -1.0}, "--lr is -1.0"),
    ],
)
def test_a_recipe_with_an_unknown_field_or_a_wrong_value_is_refused(recipe, complaint):
    with pytest.raises(UserError, match=re.escape(complaint)):
        TrainConfig.from_recipe(recipe, "mine.toml")


def test_a_recipe_may_give_a_whole_number_for_a_fraction_and_is_overruled_by_flags():
    config = TrainConfig.from_recipe({"lr": 1, "epochs": 3}, "mine.toml", epochs=5)
    assert config.lr == 1
    assert config.epochs == 5


def test_metrics_of_many_findings():
    findings = change(TABLE, 'task = "binary"', 'task = "multilabel"')
    with pytest.raises(UserError, match="hard_label_auroc is for one class an image"):
        parse_competition(findings, "mine.toml")
    findings = change(findings, "hard_label_auroc", "average_precision")
    assert parse_competition(findings, "mine.toml").metric == "average_precision"
