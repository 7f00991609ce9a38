"""An epoch of training in the way of the peers: their own loaders, loops and advice.

Every function makes a way to train ResNet-18 with SGD and momentum and gives the run that times
one more epoch of it.
"""

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torchvision
from measuring import Run, stopwatch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from xraycomp.data.phantom import CLASSES
from xraycomp.model.config import TrainConfig
from xraycomp.model.device import autocast_dtype

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Job:
    """What every way has to do."""

    folder: Path  # one folder a class
    config: TrainConfig
    workers: int
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return autocast_dtype(self.device)

    def loader(self) -> DataLoader:
        """ImageFolder and transforms of torchvision's reference, with workers that stay."""
        transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(self.config.image_size),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
                transforms.ConvertImageDtype(torch.float),
                transforms.Normalize(MEAN, STD),
            ]
        )
        return DataLoader(
            ImageFolder(str(self.folder), transform),
            self.config.batch_size,
            shuffle=True,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=self.workers > 0,
        )


def with_cudnn_benchmark(run: Run) -> Run:
    """The run with cuDNN's search for the fastest kernels, for scripts that turn it on."""

    def tuned() -> float:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            return run()

    return tuned


def torchvision_reference(job: Job) -> Run:
    """references/classification/train.py with --amp: half precision, scaled, on a GPU."""
    loader, device = job.loader(), job.device
    model = torchvision.models.resnet18(num_classes=len(CLASSES)).to(device).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def epoch() -> None:
        for image, target in loader:
            image, target = image.to(device), target.to(device)
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                output = model(image)
                loss = criterion(output, target)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            # Its log of every step.
            (output.argmax(1) == target).float().mean().item()
            loss.item()

    return with_cudnn_benchmark(stopwatch(epoch))


def timm_script(job: Job) -> Run:
    """timm's train.py with --in-chans 1 --input-img-mode L --channels-last --amp and a GPU's best
    --amp-dtype; its loader normalises on the device."""
    import timm
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2
    from timm.utils import NativeScaler

    device, dtype, size = job.device, job.dtype, job.config.image_size
    loader = create_loader(
        create_dataset("", root=str(job.folder), input_img_mode="L"),
        input_size=(1, size, size),
        batch_size=job.config.batch_size,
        is_training=True,
        color_jitter=0.0,
        mean=(0.5,),
        std=(0.25,),
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        pin_memory=device.type == "cuda",
        device=device,
    )
    model = timm.create_model("resnet18", in_chans=1, num_classes=len(CLASSES)).train()
    model = model.to(device=device, memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, "sgd", lr=0.02, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    scaler = NativeScaler() if dtype == torch.float16 else None

    def epoch() -> None:
        for image, target in loader:
            image = image.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = criterion(model(image), target)
            if scaler:
                scaler(loss, optimizer)
            else:
                loss.backward()
                optimizer.step()
            optimizer.zero_grad()
        loss.item()

    return with_cudnn_benchmark(stopwatch(epoch))


def lightning_trainer(job: Job) -> Run:
    """Lightning's Trainer, with the mixed precision that suits the GPU, without logs and files."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            model = torchvision.models.resnet18(num_classes=len(CLASSES))
            self.model = model.to(memory_format=torch.channels_last)

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            image, target = batch
            image = image.contiguous(memory_format=torch.channels_last)
            return nn.functional.cross_entropy(self.model(image), target)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.02, momentum=0.9, weight_decay=1e-4)

    class Clock(lightning.Callback):
        def on_train_epoch_start(self, *_: object) -> None:
            self.began = time.perf_counter()

        def on_train_epoch_end(self, *_: object) -> None:
            if job.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.began

    names = {torch.float32: "32-true", torch.float16: "16-mixed", torch.bfloat16: "bf16-mixed"}
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    clock, loader, module = Clock(), job.loader(), Classifier()

    def run() -> float:
        lightning.Trainer(
            accelerator=job.device.type,
            devices=1,
            precision=names[job.dtype],
            max_epochs=2,
            callbacks=[clock],
            **dict.fromkeys(quiet, False),
        ).fit(module, loader)
        return clock.seconds

    return with_cudnn_benchmark(run)


def fastai_learner(job: Job) -> Run:
    """fastai's Learner: crops one by one, the rest on the device; it starts its workers anew every
    epoch, which its loader cannot be told not to."""
    from fastai.callback.channelslast import ChannelsLast  # noqa: F401 - adds to_channelslast
    from fastai.vision import all as fastai

    class Clock(fastai.Callback):
        def before_train(self) -> None:
            self.began = time.perf_counter()

        def after_train(self) -> None:
            if job.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.began

    block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock),
        get_items=fastai.get_image_files,
        get_y=fastai.parent_label,
        splitter=lambda items: (list(range(len(items))), []),
        item_tfms=fastai.RandomResizedCrop(job.config.image_size),
        batch_tfms=[fastai.Flip(), fastai.Normalize.from_stats(MEAN, STD)],
    )
    loaders = block.dataloaders(
        job.folder, bs=job.config.batch_size, num_workers=job.workers, device=job.device
    )
    clock = Clock()
    learner = fastai.Learner(
        loaders,
        torchvision.models.resnet18(num_classes=len(CLASSES)),
        fastai.CrossEntropyLossFlat(),
        partial(fastai.SGD, mom=0.9),
        cbs=clock,
    )
    mode = "bf16" if job.dtype == torch.bfloat16 else "fp16"
    learner.to_channelslast(use_amp=job.dtype != torch.float32, amp_mode=mode)

    def run() -> float:
        with learner.no_bar(), learner.no_logging():
            learner.fit(2, 0.02)
        return clock.seconds

    return run
