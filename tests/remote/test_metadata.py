"""kernel-metadata.json: every mistake is found before anything is sent, all in one message."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xraycomp.console.errors import UserError
from xraycomp.remote.metadata import PLACEHOLDER, read_metadata, write_owner

Make = Callable[..., Path]
KERNELS = Path(__file__).parents[2] / "kernels"


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "kernel-metadata.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def complaint(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_metadata(folder)
    said = str(caught.value)
    assert said.startswith(f"{folder}/kernel-metadata.json: ")
    return said.removeprefix(f"{folder}/kernel-metadata.json: ")


def test_a_good_file_is_read(make_kernel: Make) -> None:
    sources = {
        "dataset_sources": ["me/weights", "me/weights/3"],
        "kernel_sources": ["somebody/earlier-kernel"],
        "model_sources": ["google/efficientnet/pyTorch/b0-v1.1/2"],
        "docker_image": "gcr.io/kaggle-images/python@sha256:0",
    }
    gpu = {"enable_gpu": True, "machine_shape": "NvidiaTeslaT4"}
    metadata = read_metadata(make_kernel(**sources, **gpu))
    assert (metadata.owner, metadata.slug) == ("somebody", "toy-kernel")
    assert metadata.competition_sources == ("toy-films",)
    assert metadata.dataset_sources == ("me/weights", "me/weights/3")
    assert metadata.enable_gpu and not metadata.enable_internet


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"enable_internt": False}, "unknown key enable_internt, did you mean enable_internet"),
        ({"machineshape": ""}, "unknown key machineshape, did you mean machine_shape"),
        ({"enable_internet": True}, "enable_internet is true: many competitions forbid it"),
        ({"enable_internet": "false"}, "enable_internet must be true or false, without quotes"),
        ({"title": "Toy"}, "the title 'Toy' has 3 characters; Kaggle takes 5 to 50"),
        ({"id": "me/toy", "title": "Toy  "}, "the slug 'toy' has 3 characters"),
        ({"title": "T" * 51}, "has 51 characters"),
        ({"title": "Toy: kernel, 2"}, "call the title 'Toy: kernel, 2' 'toy-kernel-2', not"),
        ({"id": "toy-kernel"}, "id is 'toy-kernel' but must be owner/slug"),
        ({"id": "me/toy-kernel/3"}, "id is 'me/toy-kernel/3' but must be owner/slug"),
        ({"code_file": "../kernel.py"}, "code_file is '../kernel.py'"),
        ({"code_file": "/etc/kernel.py"}, "code_file is '/etc/kernel.py'"),
        ({"code_file": "train.py"}, "code_file is 'train.py'"),
        ({"code_file": "kernel.ipynb"}, "code_file is 'kernel.ipynb'"),
        ({"language": "r"}, "language is 'r' but a bundle is a python"),
        ({"kernel_type": "notebook"}, "kernel_type is 'notebook' but a bundle is a script"),
        ({"docker_image_pinning_type": "newest"}, "must be original or latest"),
        ({"docker_image": 3}, "docker_image must be a text or null"),
        ({"machine_shape": "NvidiaTeslaT4"}, "does not agree with enable_gpu false"),
        ({"enable_gpu": True}, "machine_shape '' does not agree with enable_gpu true"),
        ({"enable_tpu": True, "machine_shape": "NvidiaTeslaT4"}, "and enable_tpu true"),
        ({"machine_shape": "TpuV5E8"}, "and enable_tpu false"),
        ({"machine_shape": "NvidiaTeslaP100"}, "was retired by Kaggle; use NvidiaTeslaT4"),
        ({"machine_shape": "NvidiaTeslaT4Highmem"}, "is Kaggle's own; use NvidiaTeslaT4"),
        ({"machine_shape": "NvidiaTelsaT4"}, "is not known, did you mean NvidiaTeslaT4"),
        ({"competition_sources": ["c/toy-films"]}, "'c/toy-films' in competition_sources must be"),
        ({"dataset_sources": ["weights"]}, "'weights' in dataset_sources must be owner/slug"),
        ({"kernel_sources": ["me/toy"]}, "'me/toy' in kernel_sources must be owner/slug"),
        ({"model_sources": ["me/net/pyTorch/b0"]}, "owner/slug/framework/variation/version"),
        ({"keywords": "gpu"}, "keywords must be a list of texts"),
    ],
)
def test_a_mistake_is_named(make_kernel: Make, changes: dict[str, Any], sentence: str) -> None:
    assert sentence in complaint(make_kernel(**changes))


def test_a_missing_key_is_named_since_the_client_would_fill_it_in(make_kernel: Make) -> None:
    folder = make_kernel()
    for key in json.loads((folder / "kernel-metadata.json").read_text()):
        make_kernel()
        change(folder, lambda values, key=key: values.pop(key))
        assert f"missing, though the client would fill them in: {key}" in complaint(folder)


def test_all_mistakes_stand_in_one_message(make_kernel: Make) -> None:
    folder = make_kernel(title="A", machine_shape="P100", dataset_sources=["x"])
    change(folder, lambda values: values.pop("enable_internet"))
    change(folder, lambda values: values.update(enable_internt=False))
    said = complaint(folder)
    for part in (
        "enable_internt, did you mean enable_internet",
        "fill them in: enable_internet",
        "1 characters",
        "'P100' is not known",
        "'x' in dataset_sources",
    ):
        assert part in said


def test_internet_needs_a_word(make_kernel: Make) -> None:
    folder = make_kernel(enable_internet=True)
    assert read_metadata(folder, allow_internet=True).enable_internet


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"id": "a/b", "id": "c/d"}', "id is written twice"),
    ],
)
def test_a_file_that_is_no_object_is_refused(make_kernel: Make, text: str, sentence: str) -> None:
    folder = make_kernel()
    (folder / "kernel-metadata.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_metadata(folder)


def test_a_folder_without_the_file_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no kernel: it has no kernel-metadata\.json"):
        read_metadata(tmp_path)


def test_the_owner_is_written_once_and_nothing_else_changes(make_kernel: Make) -> None:
    folder = make_kernel(id=f"{PLACEHOLDER}/toy-kernel")
    before = (folder / "kernel-metadata.json").read_text()
    metadata = read_metadata(folder)
    assert not metadata.has_owner
    with pytest.raises(UserError, match="still holds INSERT_USERNAME"):
        _ = metadata.owner
    write_owner(folder, "some-body")
    assert read_metadata(folder).owner == "some-body"
    after = (folder / "kernel-metadata.json").read_text()
    assert after == before.replace(PLACEHOLDER, "some-body")
    for wrong in ("", "a/b", PLACEHOLDER, 'x"'):
        with pytest.raises(UserError, match="is no Kaggle user name"):
            write_owner(folder, wrong)
    assert (folder / "kernel-metadata.json").read_text() == after
    write_owner(folder, "another")  # in place of an owner that stands there
    assert read_metadata(folder).owner == "another"


@pytest.mark.parametrize("folder", sorted(path.parent for path in KERNELS.glob("*/train.py")))
def test_the_kernels_that_come_with_the_kit_are_valid_and_offline(folder: Path) -> None:
    metadata = read_metadata(folder)
    assert metadata.slug == folder.name
    assert not metadata.has_owner
    assert metadata.is_private
