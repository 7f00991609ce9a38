"""Images a second from PNG files to a batch: this kit's input path against the usual ones.

    python benchmarks/input_pipeline.py [--images 256] [--sizes 299 1024] [--rounds 5]

Every path runs in one process and one thread, on the same files, to 224 px: the shorter side to
256, the centre crop, mirrored by chance. Loaders are made and run through once before what counts.
The kit decodes once (``xraycomp.data.cache``), which is a row of its own, and then reads its cache:
with the warp the kit also crops, rotates, zooms and changes tones by chance. ``pip install -e
'.[bench]'`` brings the peers; ffcv is none of them, since its package is built from source against
OpenCV's headers. Writes benchmarks/results/.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from measuring import (
    Figures,
    Run,
    alternate,
    draw_images,
    print_figures,
    stopwatch,
    tabulate,
)
from numpy.typing import NDArray
from PIL import Image
from results import save
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from xraycomp.data.batches import epoch_order
from xraycomp.data.cache import ImageCache, build_cache
from xraycomp.model.augment import draw, prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.feed import feed

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BATCH = 64
CONFIG = TrainConfig(image_size=224, resize_size=256, batch_size=BATCH)
USUAL = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)
Epoch = Callable[[], int]
"""Reads every image once and returns how many there were."""


def torchvision_usual(folder: Path) -> Epoch:
    """PIL -> RGB -> Resize -> CenterCrop -> flip -> ToTensor -> Normalize in a DataLoader."""
    dataset = ImageFolder(str(folder), USUAL)
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=0)
    return lambda: sum(len(images) for images, _ in loader)


def torchvision_gray(folder: Path) -> Epoch:
    """torchvision at its fastest: gray uint8 tensors and its second transforms."""
    floats = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25])]
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.RandomHorizontalFlip(), *floats])
    read = partial(decode_image, mode=ImageReadMode.GRAY)
    dataset = ImageFolder(str(folder), transform, loader=read)
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=0)
    return lambda: sum(len(images) for images, _ in loader)


def timm_loader(folder: Path) -> Epoch:
    """timm's dataset, training transform and loader, without worker processes."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        no_aug=True,
        num_workers=0,
        device=torch.device("cpu"),
        persistent_workers=False,
    )
    return lambda: sum(len(images) for images, _ in loader)


def fastai_loader(folder: Path) -> Epoch:
    """fastai's block of images and categories, resized one by one, mirrored batch by batch."""
    from fastai.vision import all as fastai

    block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock),
        get_items=fastai.get_image_files,
        get_y=fastai.parent_label,
        splitter=lambda items: (list(range(len(items))), []),
        item_tfms=[fastai.Resize(256), fastai.CropPad(224)],
        batch_tfms=[fastai.Flip(), fastai.Normalize.from_stats(MEAN, STD)],
    )
    loaders = block.dataloaders(folder, bs=BATCH, num_workers=0, device=torch.device("cpu"))
    return lambda: sum(len(images) for images, _ in loaders.train)


def webdataset_shards(folder: Path) -> Epoch:
    """webdataset: the files in tar shards, which are written beforehand; torchvision transforms."""
    import webdataset

    shards = folder.parent / "shards"
    shards.mkdir(exist_ok=True)
    classes = sorted(path.name for path in folder.iterdir())
    with webdataset.ShardWriter(str(shards / "%06d.tar"), maxcount=1000, verbose=0) as writer:
        for path in sorted(folder.rglob("*.png")):
            label = classes.index(path.parent.name)
            writer.write({"__key__": path.stem, "png": path.read_bytes(), "cls": label})
    dataset = (
        webdataset.WebDataset(sorted(map(str, shards.glob("*.tar"))), shardshuffle=False)
        .shuffle(256)
        .decode("pil")
        .to_tuple("png", "cls")
        .map_tuple(lambda image: USUAL(image.convert("RGB")), None)
        .batched(BATCH)
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=0)
    return lambda: sum(len(images) for images, _ in loader)


def dali_pipeline(folder: Path) -> Epoch:
    """NVIDIA DALI on the CPU, in gray: decoding, resizing and normalising in one graph."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    # Nothing is prefetched: a batch that is made before the clock starts would not count.
    @pipeline_def(
        batch_size=BATCH, num_threads=1, device_id=None, exec_async=False, exec_pipelined=False
    )
    def graph() -> tuple[object, ...]:
        files, labels = fn.readers.file(file_root=str(folder), random_shuffle=True, name="files")
        images = fn.decoders.image(files, device="cpu", output_type=types.GRAY)
        images = fn.resize(images, resize_shorter=256)
        mirror = fn.random.coin_flip()
        images = fn.crop_mirror_normalize(
            images, crop=(224, 224), mirror=mirror, mean=[127.5], std=[63.75]
        )
        return images, labels

    options = {"auto_reset": True, "prepare_first_batch": False}
    loader = DALIGenericIterator(graph(), ["images", "labels"], reader_name="files", **options)
    return lambda: sum(len(batch[0]["images"]) for batch in loader)


def pil_loop(folder: Path) -> Epoch:
    """A plain loop: PIL gray -> resize -> crop -> float array, stacked."""
    paths = sorted(folder.rglob("*.png"))

    def epoch() -> int:
        for start in range(0, len(paths), BATCH):
            batch = []
            for path in paths[start : start + BATCH]:
                with Image.open(path) as image:
                    gray = image.convert("L").resize((256, 256), Image.Resampling.BILINEAR)
                batch.append(np.asarray(gray.crop((16, 16, 240, 240)), dtype=np.float32) / 255)
            torch.from_numpy(np.stack(batch))[:, None].sub_(0.5).div_(0.25)
        return len(paths)

    return epoch


def kit_decoding(folder: Path) -> Epoch:
    """What the kit does once: every file into a new cache, in one thread."""
    paths, number = sorted(folder.rglob("*.png")), count()
    fresh = folder.parent / "fresh"
    return lambda: build_cache(paths, fresh / str(next(number)), 256, workers=1).n_images


def kit_blocks(cache: ImageCache) -> Epoch:
    """The kit's work on the CPU where there is a GPU: blocks of uint8 images, ready for it."""

    def epoch() -> int:
        return sum(len(block) for block in feed(cache, in_batches(cache), torch.device("cpu")))

    return epoch


def kit_with_warp(cache: ImageCache) -> Epoch:
    """The same and the random warp to normalised floats, which a GPU would do."""

    def epoch() -> int:
        draws = draw(cache.n_images, CONFIG, np.random.default_rng(0), CONFIG.image_size)
        images = 0
        for block in feed(cache, in_batches(cache), torch.device("cpu")):
            part = draws[slice(images, images + len(block))]
            images += len(prepare(block, CONFIG, 0.5, 0.25, part))
        return images

    return epoch


def in_batches(cache: ImageCache) -> list[NDArray[np.int64]]:
    order = epoch_order(cache.n_images, None, 0, 0)
    return np.split(order, range(BATCH, len(order), BATCH))


def measure(scratch: Path, images: int, size: int, rounds: int) -> dict[str, Figures]:
    """Let every way read ``images`` PNG of ``size`` px."""
    folder = draw_images(scratch, images, size)
    cache = build_cache(sorted(folder.rglob("*.png")), scratch / "cache", 256, workers=1)

    def way(make: Callable[..., Epoch], source: Path | ImageCache, times: int = 1) -> Run:
        epoch = make(source)
        if (read := epoch()) != images:
            raise SystemExit(f"{make.__name__} reads {read} images an epoch instead of {images}.")
        return stopwatch(epoch, times)

    ways = {
        "torchvision, usual": partial(way, torchvision_usual, folder),
        "torchvision v2, gray tensors": partial(way, torchvision_gray, folder),
        "timm": partial(way, timm_loader, folder),
        "fastai": partial(way, fastai_loader, folder),
        "webdataset": partial(way, webdataset_shards, folder),
        "DALI, gray": partial(way, dali_pipeline, folder),
        "plain PIL loop, gray": partial(way, pil_loop, folder),
        "xraycomp, decoding once": partial(way, kit_decoding, folder),
        "xraycomp, with the warp": partial(way, kit_with_warp, cache),
        # An epoch of these is too short to be timed.
        "xraycomp, uint8 blocks for a GPU": partial(way, kit_blocks, cache, times=20),
    }
    return tabulate(ways, alternate(ways, rounds), images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256, help=f"a multiple of {BATCH}")
    parser.add_argument("--sizes", type=int, nargs="+", default=[299, 1024], help="sides in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            figures[f"{size} px"] = measure(Path(scratch), args.images, size, args.rounds)
    columns = {"images_per_second": ("img/s", 0), "ratio": ("times the first", 2)}
    for size, table in figures.items():
        print_figures(f"{args.images} PNG of {size} to 224 px, one thread", table, columns)
    save("input_pipeline", figures)


if __name__ == "__main__":
    main()
