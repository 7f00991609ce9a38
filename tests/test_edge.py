"""The edge's command alone: what it may import, odd files, orders, mistakes, and its image."""

import csv
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from xraycomp.data.decode import UNDECODABLE, load_gray
from xraycomp.data.image_ids import IMAGE_SUFFIXES
from xraycomp.model.config import TrainConfig
from xraycomp.model.export_onnx import export_onnx
from xraycomp.model.zoo import create_model

FOLDER = Path(__file__).parents[1] / "edge"
MODULE = FOLDER / "xraycomp_edge.py"
CLASSES = ["sick, or so", "wéll"]
ALONE = """
import importlib.abc, runpy, sys
# onnxruntime and numpy look for some of what they could use besides.
there = {*sys.stdlib_module_names, "onnxruntime", "numpy", "PIL", "flatbuffers", "google"}
class Alone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in there:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Alone())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*args, cwd=None, **options):
    """The command in a process that finds nothing but what the edge's image holds."""
    return subprocess.run(
        [sys.executable, "-I", "-c", ALONE, MODULE, *map(str, args)],
        cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=120, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network that judges films by what is on them, of findings with thresholds."""
    torch.manual_seed(0)
    network = create_model("timm:test_resnet", 2)
    network.activation = "sigmoid"
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    about = {"classes": CLASSES, "task": "multilabel", "thresholds": [0.0, 1.0]}
    export_onnx(network.eval(), TrainConfig(image_size=32), 0.2, path, about)
    return path


@pytest.fixture
def films(tmp_path, draw):
    """Films of several sizes, in folders."""
    sizes = [(40, 30), (50, 50), (40, 30), (64, 48), (50, 50)]
    for number, size in enumerate(sizes):
        draw(tmp_path / f"films/{number % 2}/film_{number}.png", number % 4, number, size)
    return tmp_path / "films"


def expected(model, paths):
    """Each film by itself, through the kit's own decoding."""
    session = onnxruntime.InferenceSession(model)
    given = [np.asarray(load_gray(path))[None] for path in paths]
    return np.concatenate([session.run(None, {"images": film})[0] for film in given])


def test_it_needs_nothing_but_onnxruntime_numpy_and_pillow(model, films):
    done = run(model, films)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"5 images in [\d.]+ s: [\d,.]+ images/s\.", done.stderr.strip())
    table = list(csv.reader(io.StringIO(done.stdout)))
    assert table[0] == ["image", *CLASSES, "called"]
    names = [row[0] for row in table[1:]]
    assert names == [f"{n % 2}/film_{n}.png" for n in (0, 2, 4, 1, 3)]
    probs = np.array([row[1:3] for row in table[1:]], float)
    assert np.allclose(probs, expected(model, [films / name for name in names]), atol=2e-6)
    assert len(np.unique(probs)) == 10
    assert {row[3] for row in table[1:]} == {CLASSES[0]}  # from 0 on and from 1 on


def test_json_says_the_same_and_keeps_the_order_given(model, films):
    given = [films / "1/film_3.png", films / "0", films / "1/film_1.png"]
    done = run(model, *given, "--format", "json", "--batch-size", "1", "--threads", "1")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    below = [films / "0" / f"film_{number}.png" for number in (0, 2, 4)]
    paths = [given[0], *below, given[2]]
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    found = np.array([[row["probs"][name] for name in CLASSES] for row in rows])
    assert np.allclose(found, expected(model, paths), atol=2e-6)
    assert all(row["called"] == CLASSES[:1] for row in rows)


def odd_files(folder):
    """Every kind of pixel that files of films come in."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = np.stack([ramp, ramp[::-1], ramp.T], axis=-1)
    rgb = Image.fromarray(colours)
    alpha = Image.fromarray(ramp.T.copy())
    folder.mkdir()
    with_alpha = rgb.copy()
    with_alpha.putalpha(alpha)
    pictures = {
        "gray.png": Image.fromarray(ramp),
        "rgb.png": rgb,
        "rgba.png": with_alpha,
        "gray_alpha.png": Image.merge("LA", [Image.fromarray(ramp), alpha]),
        "sixteen.png": Image.fromarray(np.linspace(0, 65535, 256).reshape(16, 16).astype("<u2")),
        "sixteen.tif": Image.fromarray(ramp.astype("<u2") * 257),
        "wide.tif": Image.fromarray(ramp.astype(np.int32) * 200),
        "float.tif": Image.fromarray(ramp.astype(np.float32) * 90.5),
        "palette.png": rgb.quantize(13),
        "palette.gif": rgb.quantize(200),
        "bit.png": Image.fromarray(ramp > 100),
        "cmyk.jpg": rgb.convert("CMYK"),
        "cmyk.tif": rgb.convert("CMYK"),
        "ycc.jpg": rgb,
        "film.webp": rgb,
        "film.bmp": rgb,
    }
    for name, picture in pictures.items():
        picture.save(folder / name)
    return [folder / name for name in pictures]


def edge_module():
    spec = importlib.util.spec_from_file_location("xraycomp_edge", MODULE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["xraycomp_edge"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_file_is_decoded_as_the_kit_decodes_it(tmp_path):
    edge = edge_module()
    for path in odd_files(tmp_path / "odd"):
        found = edge.load_gray(path)
        assert found.dtype == np.uint8
        assert np.array_equal(found, np.asarray(load_gray(path))), path.name
    assert edge.UNDECODABLE == UNDECODABLE
    assert edge.SUFFIXES == IMAGE_SUFFIXES


def test_broken_images_are_named_and_left_out(model, films, tmp_path):
    (films / "empty.png").touch()
    (films / "text.png").write_text("no image")
    whole = (films / "0/film_0.png").read_bytes()
    (films / "cut.png").write_bytes(whole[: len(whole) // 2])
    (films / ".hidden.png").touch()
    done = run(model, films, "--output", tmp_path / "table.csv")
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["cut.png", "empty.png", "text.png", "5"]
    assert "empty.png is left out: empty file." in said
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 6
    strict = run(model, films, "--output", tmp_path / "strict.csv", "--strict")
    assert strict.returncode == 1
    assert len(strict.stderr.splitlines()) == 1
    assert "cut.png does not decode" in strict.stderr
    assert not (tmp_path / "strict.csv").exists()


def test_mistakes_are_one_sentence(model, films, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.onnx").write_bytes(model.read_bytes()[:5000])
    for args, sentence in {
        (tmp_path / "none.onnx", films): "There is no model",
        (tmp_path / "torn.onnx", films): "is damaged or not an ONNX model",
        (films / "0/film_0.png", films): "is damaged or not an ONNX model",
        (model, tmp_path / "none"): "There is nothing at",
        (model, tmp_path / "empty"): "There are no images there",
        (model, films, "--batch-size", "0"): "--batch-size is 0",
        (model, films, "--threads", "-1"): "--threads is -1",
        (model, films, "--output", tmp_path / "none/table.csv"): "There is no folder",
        (model, films, "--output", films): "films is a folder. Name a file.",
    }.items():
        done = run(*args)
        assert done.returncode == 1, args
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert sentence in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_model_that_the_kit_has_not_written_is_refused(model, films, tmp_path):
    import onnx

    saved = onnx.load(model)
    del saved.metadata_props[:]
    onnx.save(saved, tmp_path / "bare.onnx")
    done = run(tmp_path / "bare.onnx", films)
    assert done.returncode == 1
    assert "was not written by python -m xraycomp.export" in done.stderr


def test_ctrl_c_leaves_the_earlier_table(model, films, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("earlier")
    (tmp_path / "broken.png").touch()  # which is named when it has begun
    many = [tmp_path / "broken.png", *[films] * 5_000]
    process = subprocess.Popen(
        [sys.executable, MODULE, model, *many, "--output", table],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "broken.png" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1] == "Interrupted."
    assert "Traceback" not in said
    assert table.read_text() == "earlier"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_reader_that_has_seen_enough_is_no_error(model, films):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, MODULE, model, films], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert "Traceback" not in done.stderr


def test_the_image_is_pinned_and_runs_as_nobody():
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    by_name = {}
    for name, rest in steps:
        by_name.setdefault(name, []).append(rest)
    (base,) = by_name["FROM"]
    assert re.fullmatch(r"python:3\.13\.\d+-slim-\w+", base)
    (install,) = by_name["RUN"]
    for part in ("--require-hashes", "--only-binary=:all:", "--no-cache-dir", "uninstall"):
        assert part in install
    assert "apt" not in install
    (user,) = by_name["USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    order = [name for name, _ in steps]
    assert order.index("USER") > max(n for n, name in enumerate(order) if name in ("RUN", "COPY"))
    assert by_name["ENTRYPOINT"] == ['["xraycomp-edge"]']
    assert "ORT_DISABLE_TELEMETRY=1" in by_name["ENV"][0]
    copied = [rest.split()[-2] for rest in by_name["COPY"]]
    let_in = (FOLDER / ".dockerignore").read_text().split()
    assert let_in == ["*", *(f"!{name}" for name in copied)]
    assert all((FOLDER / name).is_file() for name in copied)


def test_every_package_of_the_image_is_pinned_by_hash_and_none_is_missing():
    text = (FOLDER / "requirements.txt").read_text().replace("\\\n", " ")
    pinned = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            package, *hashes = line.split()
            name, version = re.fullmatch(r"([\w-]+)==([\d.]+)", package).groups()
            assert hashes
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes)
            pinned[name] = (version, len(hashes))
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    needed = [re.split(r"[>=]", each)[0] for each in project["dependencies"]]
    assert set(needed) == {"onnxruntime", "numpy", "pillow"}
    for name in needed:
        assert pinned[name][1] == 2, name  # one wheel for amd64, one for arm64
    requires = importlib.metadata.requires("onnxruntime") or []
    wanted = {re.match(r"[\w-]+", each)[0] for each in requires if "extra" not in each}
    assert wanted <= set(pinned)


def test_it_tells_its_version_and_is_a_command_by_itself():
    assert os.access(MODULE, os.X_OK)
    assert MODULE.read_text().startswith("#!/usr/bin/env python3\n")
    version = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version").stdout.strip() == f"xraycomp-edge {version}"
