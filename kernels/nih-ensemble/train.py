"""ChestX-ray14 without rare findings: six networks, each at its size, and all their ensembles."""

from functools import partial

from xraycomp.job.members import train_ensemble
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session

SIZES = {"timm:mobilenetv1_100": 384, "mobilenet_v2": 224, "vgg19_bn": 128, "inception_v3": 299}
SIZES |= {"timm:inception_resnet_v2": 224, "timm:nasnetalarge": 128}
SAME = {"min_count": 1000, "drop_no_finding": True, "weighted_sampling": False, "pool": "attention"}
SAME |= {"batch_size": 16, "accumulate": 4, "epochs": 6, "monitor": "val_auroc"}
SAME |= {"optimizer": "adam", "lr": 0.0005, "weight_decay": 0.0}

if __name__ == "__main__":  # child processes import this file again
    members = [{"name": a.removeprefix("timm:"), "arch": a, "image_size": SIZES[a]} for a in SIZES]
    of_nih = partial(TrainConfig.for_competition, "nih-chest-xrays")
    run_session(partial(train_ensemble, "nih-ensemble"), *(of_nih(**m, **SAME) for m in members))
