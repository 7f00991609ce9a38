"""How much longer a training step of this kit takes than the bare model on ready tensors.

    python benchmarks/training_overhead.py [--image-size 128] [--rounds 9]

Both sides train the same network (channels_last, gray stem, SGD with momentum) on batches of the
same size. The bare side repeats forward, loss, backward and step on tensors that lie ready; the
kit's side gathers from the cache, warps, smooths, clips and keeps count besides. They take turns;
the ratio is the median over the rounds. Writes benchmarks/results/.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from results import save

from xraycomp.data.batches import ImageSet, epoch_order, whole_batches
from xraycomp.data.cache import build_cache
from xraycomp.data.phantom import CLASSES, draw_competition
from xraycomp.model.config import TrainConfig
from xraycomp.model.device import choose_device
from xraycomp.model.engine import Loop
from xraycomp.model.run import RunFolder
from xraycomp.model.state import start_state
from xraycomp.model.zoo import create_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps a side and round")
    args = parser.parse_args()
    device = choose_device("auto")
    config = TrainConfig(image_size=args.image_size, batch_size=args.batch_size)
    with tempfile.TemporaryDirectory() as scratch:
        draw_competition(Path(scratch), n_train=512, n_test=1, size=256)
        paths = sorted(Path(scratch, "train").rglob("*.png"))
        labels = np.array([CLASSES.index(path.parent.name) for path in paths])
        cache = build_cache(paths, Path(scratch, "cache"), config.cache_size)
        train = ImageSet(
            cache, np.arange(len(paths)), np.eye(len(CLASSES), dtype=np.float32)[labels]
        )
        torch.manual_seed(0)
        state = start_state(create_model(config.arch, len(CLASSES)), len(train), config, device)
        run = RunFolder(Path(scratch, "run"))
        loop = Loop(state, train, train, config, run, lambda targets, probs: {})
        batches = list(whole_batches(epoch_order(len(train), None, 0, 0), args.batch_size))

        bare = start_state(create_model(config.arch, len(CLASSES)), len(train), config, device)
        images = torch.randn(args.batch_size, 1, args.image_size, args.image_size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        targets = torch.randint(len(CLASSES), (args.batch_size,), device=device)

        def bare_step() -> None:
            F.cross_entropy(bare.model(images), targets).backward()
            bare.optimizer.step()
            bare.optimizer.zero_grad(set_to_none=True)

        def seconds(step: Callable[[int], None], count: int) -> float:
            began = time.perf_counter()
            for i in range(count):
                step(i)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - began

        state.model.train()
        bare.model.train()
        sides = {
            "bare": lambda i: bare_step(),
            "xraycomp": lambda i: loop.step(batches[i % len(batches)]),
        }
        for side in sides.values():
            seconds(side, 3)
        rounds = []
        for number in range(args.rounds):
            order = list(sides) if number % 2 else list(sides)[::-1]
            rounds.append({name: seconds(sides[name], args.steps) for name in order})
    ratio = statistics.median(each["xraycomp"] / each["bare"] for each in rounds)
    per_step = {n: statistics.median(each[n] for each in rounds) / args.steps for n in sides}
    print(f"resnet18, {args.image_size} px, batches of {args.batch_size}, {device}")
    for name, value in per_step.items():
        print(f"{name:10}{value * 1000:10.1f} ms a step{args.batch_size / value:10.1f} img/s")
    print(f"ratio {ratio:.3f}")
    save("training_overhead", {"ratio": ratio, "seconds_a_step": per_step})


if __name__ == "__main__":
    main()
