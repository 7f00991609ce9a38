"""ChestX-ray14, 14 findings: DenseNet-121 at 320 px, class-weighted BCE; ROC curves, heat maps."""

from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session

MODEL = {"arch": "densenet121", "image_size": 320, "batch_size": 32, "epochs": 6}
# Weights for positive and negative labels from the training split alone (Rajpurkar et al., 2017).
LOSS = {"loss": "weighted_bce", "weighted_sampling": False}
LEARNING = {"optimizer": "adam", "lr": 0.0005, "weight_decay": 0.0, "schedule": "cosine"}

if __name__ == "__main__":  # child processes import this file again
    config = TrainConfig.for_competition(
        "nih-chest-xrays", name="nih-densenet121", **MODEL, **LOSS, **LEARNING
    )
    run_session(train, config)
