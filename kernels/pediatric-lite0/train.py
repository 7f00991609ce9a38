"""Pediatric pneumonia: EfficientNet-Lite0 from ImageNet weights, five folds, mirror images."""

from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session

# Published with: python -m xraycomp.kernel weights pediatric-lite0 --weights <this file>
MODEL = {"arch": "timm:tf_efficientnet_lite0"}
MODEL |= {"weights": "tf_efficientnet_lite0-imagenet.safetensors"}
LEARNING = {"epochs": 3, "lr": 0.0007, "folds": 5, "tta": ("mirror",)}

if __name__ == "__main__":  # child processes import this file again
    config = TrainConfig.for_competition(
        "pediatric-pneumonia", name="pediatric-lite0", **MODEL, **LEARNING
    )
    run_session(train, config)
