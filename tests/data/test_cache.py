"""The cache: pixels against torchvision and PIL, what rebuilds it, what an interruption leaves."""

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from xraycomp.console.errors import UserError
from xraycomp.data.cache import build_cache
from xraycomp.data.decode import load_gray


def build(paths, tmp_path, size=16, workers=2):
    return build_cache(paths, tmp_path / "cache", size, workers=workers)


@pytest.fixture
def images(tmp_path, draw):
    return [draw(tmp_path / f"images/{n}.png", n % 4, seed=n, size=(40, 30)) for n in range(70)]


def pixels_of(cache):
    return cache.gather(np.arange(cache.n_images))


@pytest.mark.parametrize(
    "size", [(64, 64), (64, 48), (47, 64), (333, 100), (20, 20), (15, 31), (256, 255)]
)
@pytest.mark.parametrize("side", [1, 7, 32, 64])
def test_pixels_equal_torchvisions_resize_and_centre_crop(tmp_path, draw, size, side):
    path = draw(tmp_path / "image.png", 1, seed=sum(size), size=size)
    cache = build([path], tmp_path, side)
    resize = v2.Resize(side, interpolation=InterpolationMode.BILINEAR, antialias=True)
    with Image.open(path) as image:
        expected = v2.CenterCrop(side)(resize(image))
    assert np.array_equal(pixels_of(cache)[0], np.asarray(expected))


RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
LUMA = np.rint(COLOURS @ np.array([0.299, 0.587, 0.114]))


def gray(path):
    Image.fromarray(RAMP).save(path)
    return RAMP


def rgb(path):
    Image.fromarray(COLOURS).save(path)
    return LUMA


def rgba(path):
    alpha = RAMP[..., None] // 2
    Image.fromarray(np.concatenate([COLOURS, alpha], axis=-1)).save(path)
    return LUMA


def gray_with_alpha(path):
    Image.fromarray(np.stack([RAMP, 255 - RAMP], axis=-1), mode="LA").save(path)
    return RAMP


def sixteen_bit(path):
    values = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(path)
    return np.rint(values / 257)


def palette(path):
    image = Image.fromarray(RAMP // 32).convert("P")
    table = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (70, 70, 70), (200, 200, 200)]
    table += [(0, 0, 0), (255, 255, 255)]
    image.putpalette([value for colour in table for value in colour])
    image.save(path)
    return np.rint(np.array(table) @ np.array([0.299, 0.587, 0.114]))[RAMP // 32]


def one_bit(path):
    Image.fromarray(RAMP > 100).save(path)
    return np.where(RAMP > 100, 255, 0)


def four_bit(path):
    Image.fromarray(RAMP // 16 * 17).quantize(16).save(path, bits=4)
    return RAMP // 16 * 17


@pytest.mark.parametrize(
    "save", [gray, rgb, rgba, gray_with_alpha, sixteen_bit, palette, one_bit, four_bit]
)
def test_every_kind_of_png_loads_to_its_gray_values(tmp_path, save):
    expected = save(tmp_path / "image.png")
    loaded = load_gray(tmp_path / "image.png")
    assert loaded.mode == "L"
    assert np.abs(np.asarray(loaded, dtype=float) - expected).max() <= 1
    assert np.array_equal(pixels_of(build([tmp_path / "image.png"], tmp_path))[0], loaded)


def test_sixteen_bit_keeps_black_and_white(tmp_path):
    sixteen_bit(tmp_path / "image.png")
    loaded = np.asarray(load_gray(tmp_path / "image.png"))
    assert (loaded.min(), loaded.max()) == (0, 255)


def test_sixteen_bit_values_are_scaled_to_the_nearest_of_256(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "image.png")
    assert np.array_equal(load_gray(tmp_path / "image.png"), RAMP)


def test_thumbnails_show_the_whole_film_whatever_the_crop(tmp_path, draw):
    path = draw(tmp_path / "image.png", 1, size=(96, 64))
    with Image.open(path) as image:
        expected = image.resize((32, 32), Image.Resampling.BOX)
    assert np.array_equal(build([path], tmp_path, 16).thumbnails()[0], expected)


def test_a_jpeg_loads_as_pil_loads_it(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "image.jpg", quality=95)
    with Image.open(tmp_path / "image.jpg") as image:
        expected = np.asarray(image.convert("L"))
    assert np.array_equal(np.asarray(load_gray(tmp_path / "image.jpg")), expected)


def test_gather_equals_the_mapped_array_in_any_order(images, tmp_path):
    cache = build(images, tmp_path)
    mapped = np.load(cache.folder / "images.npy", mmap_mode="r")
    assert mapped.shape == (70, 16, 16)
    assert mapped.dtype == np.uint8
    assert mapped.offset == 4096  # an image of 256 px lies on pages of its own
    rows = np.array([69, 0, 3, 3, 40])
    assert np.array_equal(cache.gather(rows), mapped[rows])
    assert cache.gather(np.array([], dtype=np.int64)).shape == (0, 16, 16)
    assert cache.thumbnails().shape == (70, 32, 32)


@pytest.mark.parametrize("read_ahead", [0, 1, 8, 1000])
def test_gather_reads_neighbours_gaps_and_repeated_rows_alike(tmp_path, draw, read_ahead):
    paths = [draw(tmp_path / f"{n}.png", n % 4, seed=n, size=(20, 20)) for n in range(300)]
    cache = replace(build(paths, tmp_path, 4), read_ahead=read_ahead)
    mapped = np.load(cache.folder / "images.npy")
    rng = np.random.default_rng(0)
    for rows in (
        np.arange(300),  # more in a row than one read takes
        np.arange(300)[::-1],
        rng.permutation(300),
        rng.integers(300, size=500),
        np.repeat([7, 8, 299], 3),
        np.array([], dtype=np.int64),
    ):
        assert np.array_equal(cache.gather(rows), mapped[rows])


def test_rows_stand_in_the_order_asked_for_whatever_the_number_of_threads(images, tmp_path):
    one = pixels_of(build_cache(images, tmp_path / "one", 16, workers=1))
    many = pixels_of(build_cache(images, tmp_path / "many", 16, workers=4))
    assert np.array_equal(one, many)
    backwards = build_cache(images[::-1], tmp_path / "one", 16, workers=2)
    assert np.array_equal(pixels_of(backwards), one[::-1])


def stamp(folder):
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def touch(images):
    for path in images:
        os.utime(path, ns=(1, 10**18))
    return images


def move(images):
    folder = images[0].parent.rename(images[0].parent.with_name("moved"))
    return [folder / path.name for path in images]


def copy(images):
    folder = shutil.copytree(images[0].parent, images[0].parent.with_name("copied"))
    return [folder / path.name for path in images]


@pytest.mark.parametrize("change", [lambda images: images, touch, move, copy])
def test_what_leaves_the_bytes_alone_builds_nothing(images, tmp_path, change):
    first = build(images, tmp_path)
    before = stamp(first.folder)
    again = build(change(images), tmp_path)
    assert again.folder == first.folder
    assert stamp(again.folder) == before
    assert again == first


def test_changed_bytes_of_one_file_build_anew(images, tmp_path, draw):
    first = build(images, tmp_path)
    draw(images[5], 3, seed=999, size=(40, 30))
    again = build(images, tmp_path)
    assert again.folder != first.folder
    changed = (pixels_of(first) != pixels_of(again)).any(axis=(1, 2))
    assert list(np.flatnonzero(changed)) == [5]


def test_changed_bytes_of_the_same_length_build_anew(tmp_path):
    path = tmp_path / "image.bmp"
    Image.new("L", (16, 16), 10).save(path)
    first = build([path], tmp_path)
    length = path.stat().st_size
    Image.new("L", (16, 16), 20).save(path)
    os.utime(path, ns=(2, 2))
    again = build([path], tmp_path)
    assert path.stat().st_size == length
    assert pixels_of(first)[0, 0, 0] == 10
    assert pixels_of(again)[0, 0, 0] == 20


def test_files_alike_in_name_length_and_time_are_told_apart_by_their_folder(tmp_path):
    paths = [tmp_path / name / "image.bmp" for name in ("one", "two")]
    for path, value in zip(paths, (10, 20), strict=True):
        path.parent.mkdir()
        Image.new("L", (16, 16), value).save(path)
        os.utime(path, ns=(2, 2))
    build(paths, tmp_path)  # what is remembered of the files is used from the second call on
    found = [pixels_of(build([path], tmp_path))[0, 0, 0] for path in paths]
    assert found == [10, 20]


def test_another_size_builds_anew_and_keeps_the_first(images, tmp_path):
    first, second = build(images, tmp_path, 16), build(images, tmp_path, 20)
    assert first.folder != second.folder
    assert pixels_of(first).shape == (70, 16, 16)
    assert pixels_of(second).shape == (70, 20, 20)


@pytest.mark.parametrize("size", [0, -3])
def test_an_image_size_of_0_is_refused(images, tmp_path, size):
    with pytest.raises(UserError, match=f"image size is {size}"):
        build(images, tmp_path, size)
    assert not (tmp_path / "cache").exists()


BREAKS = {
    "empty.png": (lambda raw: b"", "empty file"),
    "text.png": (lambda raw: b"This is no image.\n", "not an image"),
    "truncated.png": (lambda raw: raw[: len(raw) // 2], "truncated"),
    "header_only.png": (lambda raw: raw[:30], ""),
    "html.jpg": (lambda raw: b"<!doctype html><title>404</title>", "not an image"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_file_is_listed_with_its_reason_and_the_others_are_decoded(images, tmp_path, name):
    damage, reason = BREAKS[name]
    broken = images[0].with_name(name)
    broken.write_bytes(damage(images[0].read_bytes()))
    clean = pixels_of(build(images, tmp_path))
    for paths, row in (([broken, *images], 0), ([*images, broken], 70)):
        cache = build(paths, tmp_path)
        assert list(cache.broken) == [row]
        assert reason in cache.broken[row]
        assert not pixels_of(cache)[row].any()
        assert np.array_equal(np.delete(pixels_of(cache), row, axis=0), clean)
        assert build(paths, tmp_path).broken == cache.broken  # remembered, not only found


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
@pytest.mark.filterwarnings("ignore")
def test_no_damage_to_a_file_stops_the_build(tmp_path, draw, suffix):
    rng = np.random.default_rng(0)
    with Image.open(draw(tmp_path / "whole.png")) as image:
        image.save(tmp_path / f"image.{suffix}")
    whole = (tmp_path / f"image.{suffix}").read_bytes()
    paths = []
    for n in range(200):
        raw = bytearray(whole)
        for at in rng.integers(min(len(raw), 200), size=rng.integers(1, 5)):
            raw[at] = rng.integers(256)
        paths.append(tmp_path / f"{n}.{suffix}")
        paths[-1].write_bytes(raw[: rng.integers(len(raw))] if n % 3 == 0 else raw)
    cache = build(paths, tmp_path)
    assert 0 < len(cache.broken) < 200


BUILD = """
import sys
from pathlib import Path
from xraycomp.console.command import run_command
from xraycomp.data.cache import build_cache
films, cache = map(Path, sys.argv[1:3])
run_command(lambda args: build_cache(sorted(films.iterdir()), cache, 64, workers=1))
"""
N_FILMS = 160


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films that take some 20 ms each to decode, every fortieth of them broken."""
    folder = tmp_path_factory.mktemp("films")
    ramp = (np.add.outer(np.arange(2048), np.arange(2048)) // 64).astype(np.uint8)
    for n in range(N_FILMS):
        path = folder / f"{n:03}.png"
        Image.fromarray(ramp + np.uint8(n)).save(path, compress_level=1)
        if n % 40 == 7:
            path.write_bytes(path.read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def whole(films, tmp_path_factory):
    """What a build in one go makes of them."""
    return build_cache(sorted(films.iterdir()), tmp_path_factory.mktemp("whole"), 64)


@pytest.fixture
def start_build(environment):
    """Start the build of some films in a process of its own."""
    running = []

    def start(films, cache_dir, **options):
        command = [sys.executable, "-c", BUILD, str(films), str(cache_dir)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **pipes, **options))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def wait_for(pattern, cache_dir, process):
    """The first path of that pattern, as soon as it is there."""
    started = time.monotonic()
    while not (found := list(cache_dir.glob(pattern))):
        assert process.poll() is None, "the build ended before it could be interrupted"
        assert time.monotonic() - started < 60, "the build never began"
        time.sleep(0.005)
    return found[0]


def contents(cache):
    return {path.name: path.read_bytes() for path in cache.folder.iterdir()}


def blank(path):
    """Change a file's pixels so that neither its length nor its time tells."""
    state = path.stat()
    image = io.BytesIO()
    Image.new("L", (64, 64)).save(image, "png")
    path.write_bytes(image.getvalue().ljust(state.st_size, b"\0"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_goes_on_where_it_stopped(
    films, whole, tmp_path, start_build, caplog, number
):
    films = shutil.copytree(films, tmp_path / "films")
    cache_dir = tmp_path / "cache"
    process = start_build(films, cache_dir)
    progress = wait_for("*.partial/progress.json", cache_dir, process)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    assert [path.suffix for path in cache_dir.iterdir() if path.is_dir()] == [".partial"]

    blocks = [range(int(first), int(first) + 32) for first in json.loads(progress.read_text())]
    finished = [row for block in blocks for row in block]
    assert 0 < len(finished) < N_FILMS
    paths = sorted(films.iterdir())
    for row in finished:
        blank(paths[row])  # would show if it were decoded again
    with caplog.at_level("INFO"):
        cache = build_cache(paths, cache_dir, 64)
    assert f"{len(finished)} of {N_FILMS} images are decoded" in caplog.text
    assert cache.broken == whole.broken
    assert len(cache.broken) == 4
    assert contents(cache) == contents(whole)
    assert [path for path in cache_dir.iterdir() if path.is_dir()] == [cache.folder]


def test_of_two_processes_one_builds_and_the_other_waits(films, whole, tmp_path, start_build):
    cache_dir = tmp_path / "cache"
    first = start_build(films, cache_dir)
    wait_for("*.partial/images.npy", cache_dir, first)
    second = start_build(films, cache_dir)
    (_, shown), (said, nothing) = (process.communicate(timeout=60) for process in (first, second))
    assert (first.returncode, second.returncode) == (0, 0)
    assert "waiting for it" in said
    assert "Decode to 64 px" in shown
    assert "Decode to 64 px" not in nothing
    assert contents(build_cache(sorted(films.iterdir()), cache_dir, 64)) == contents(whole)


def test_a_killed_process_keeps_no_other_waiting(films, whole, tmp_path, start_build):
    cache_dir = tmp_path / "cache"
    first = start_build(films, cache_dir)
    wait_for("*.partial/images.npy", cache_dir, first)
    second = start_build(films, cache_dir)
    first.kill()
    assert "Traceback" not in second.communicate(timeout=60)[1]
    assert second.returncode == 0
    assert contents(build_cache(sorted(films.iterdir()), cache_dir, 64)) == contents(whole)


@pytest.mark.parametrize("left", ["", '{"0": {}, "32"'])
def test_progress_that_a_power_cut_has_spoilt_counts_for_nothing(images, tmp_path, left):
    cache = build(images, tmp_path)
    before = contents(cache)
    partial = cache.folder.rename(cache.folder.with_name(f"{cache.folder.name}.partial"))
    (partial / "progress.json").write_text(left)
    (partial / "images.npy").write_bytes(b"no header, no pixels")
    assert contents(build(images, tmp_path)) == before


def test_a_build_for_which_the_disk_is_too_small_leaves_no_part_of_one(
    films, tmp_path, start_build
):
    def limit_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = start_build(films, tmp_path / "cache", preexec_fn=limit_files)
    assert "The disk is full" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []
