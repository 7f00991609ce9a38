"""Images a second from PNG files to a batch: this kit's input path against the usual ones.

    python benchmarks/input_pipeline.py [--images 600] [--size 299] [--rounds 5]

Every path runs in one process and one thread, on the same files, to 224 px, in turn; ratios are
medians over the rounds, so a drifting machine does not favour one. The kit decodes once
(``xraycomp.data.cache``); the time of that is printed apart. Writes benchmarks/results/.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from results import save
from torchvision import transforms
from torchvision.datasets import ImageFolder

from xraycomp.data.batches import epoch_order, whole_batches
from xraycomp.data.cache import ImageCache, build_cache
from xraycomp.data.phantom import draw_competition
from xraycomp.model.augment import prepare
from xraycomp.model.config import TrainConfig

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BATCH = 64
CONFIG = TrainConfig(image_size=224, resize_size=256, batch_size=BATCH)


def torchvision_usual(folder: Path) -> Iterator[int]:
    """PIL -> RGB -> Resize -> CenterCrop -> flip -> ToTensor -> Normalize in a DataLoader."""
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset = ImageFolder(str(folder), transform)
    for images, _ in torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=0):
        yield len(images)


def timm_loader(folder: Path) -> Iterator[int]:
    """timm's dataset, training transform and loader, without worker processes."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        no_aug=True,
        num_workers=0,
        use_prefetcher=False,
        persistent_workers=False,
    )
    for images, _ in loader:
        yield len(images)


def pil_loop(folder: Path) -> Iterator[int]:
    """A plain loop: PIL gray -> resize -> crop -> float array, stacked."""
    paths = sorted(folder.rglob("*.png"))
    for start in range(0, len(paths), BATCH):
        batch = []
        for path in paths[start : start + BATCH]:
            with Image.open(path) as image:
                gray = image.convert("L").resize((256, 256), Image.Resampling.BILINEAR)
            batch.append(np.asarray(gray.crop((16, 16, 240, 240)), dtype=np.float32) / 255)
        yield len(torch.from_numpy(np.stack(batch))[:, None].sub_(0.5).div_(0.25))


def kit_blocks(cache: ImageCache, repeat: int = 10) -> Iterator[int]:
    """The kit's work on the CPU: blocks of uint8 images, ready for the device."""
    for epoch in range(repeat):
        order = epoch_order(cache.n_images, None, 0, epoch)
        for rows in whole_batches(order, BATCH):
            yield len(torch.from_numpy(cache.gather(rows)))


def kit_with_warp(cache: ImageCache) -> Iterator[int]:
    """The same and the random warp to normalised floats, which a GPU would do."""
    order = epoch_order(cache.n_images, None, 0, 0)
    for rows in whole_batches(order, BATCH):
        block = torch.from_numpy(cache.gather(rows))
        yield len(prepare(block, CONFIG, 0.5, 0.25, np.random.default_rng(int(rows[0]))))


def images_per_second(batches: Callable[[], Iterator[int]]) -> float:
    began = time.perf_counter()
    images = sum(batches())
    return images / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--size", type=int, default=299, help="side of the PNG files in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        draw_competition(Path(scratch), n_train=args.images, n_test=1, size=args.size)
        folder = Path(scratch, "train")
        paths = sorted(folder.rglob("*.png"))
        began = time.perf_counter()
        cache = build_cache(paths, Path(scratch, "cache"), 256, workers=1)
        once = len(paths) / (time.perf_counter() - began)
        ways: dict[str, Callable[[], Iterator[int]]] = {
            "torchvision, usual": lambda: torchvision_usual(folder),
            "timm loader": lambda: timm_loader(folder),
            "plain PIL loop, gray": lambda: pil_loop(folder),
            "xraycomp, uint8 blocks": lambda: kit_blocks(cache),
            "xraycomp, with the warp on the CPU": lambda: kit_with_warp(cache),
        }
        rounds = [
            {name: images_per_second(way) for name, way in ways.items()} for _ in range(args.rounds)
        ]
    first = next(iter(ways))
    print(f"{len(paths)} PNG of {args.size} px to 224 px, one process and one thread")
    print(f"decoding once into the cache: {once:,.0f} img/s")
    print(f"{'':36}{'img/s':>10}{'ratio':>8}")
    table = {}
    for name in ways:
        speed = statistics.median(each[name] for each in rounds)
        ratio = statistics.median(each[name] / each[first] for each in rounds)
        table[name] = {"images_per_second": speed, "ratio": ratio}
        print(f"{name:36}{speed:>10,.0f}{ratio:>8.1f}")
    save("input_pipeline", table)


if __name__ == "__main__":
    main()
