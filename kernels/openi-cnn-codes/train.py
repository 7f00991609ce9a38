"""OpenI, Nodule or Normal: codes of a frozen body, a head 512-256-128 on them, then both as one."""

from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session

BODY = {"arch": "timm:tf_efficientnet_lite0", "head": (512, 256, 128), "image_size": 224}
# Published with: python -m xraycomp.kernel weights openi-cnn-codes --weights <this file>
BODY |= {"weights": "tf_efficientnet_lite0-imagenet.safetensors"}
# Three augmented passes, half of each mirrored, and classes drawn alike: the few nodules count.
CODES = {"codes_epochs": 20, "codes_passes": 3, "weighted_sampling": True}
WHOLE = {"epochs": 5, "optimizer": "adamw", "lr": 0.0005, "weight_decay": 0.05}

if __name__ == "__main__":  # child processes import this file again
    settings = BODY | CODES | WHOLE
    run_session(
        train, TrainConfig.for_competition("openi-nodule", name="openi-cnn-codes", **settings)
    )
