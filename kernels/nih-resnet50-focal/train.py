"""ChestX-ray14, 14 findings: ResNet-50 with focal loss, unfrozen in four stages."""

from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session

# To begin with more than noise attach ImageNet weights as a data set, made with
# python -m xraycomp.kernel weights, and name the file here: weights="resnet50-11ad3fa6.pth".
MODEL = {"arch": "resnet50", "image_size": 224, "batch_size": 64}
LOSS = {"loss": "focal", "gamma": 2.0, "alpha": 0.25, "weighted_sampling": False}
STAGES = "head:0.001:2 layer4:0.0005:2 layer3:0.0002:2 all:0.0001:4"
LEARNING = {"optimizer": "adam", "weight_decay": 0.0, "stages": STAGES}

if __name__ == "__main__":  # child processes import this file again
    config = TrainConfig.for_competition(
        "nih-chest-xrays", name="nih-resnet50-focal", **MODEL, **LOSS, **LEARNING
    )
    run_session(train, config)
