"""acse4-ml-2020: ResNet-18 from scratch, SGD with momentum, cross-entropy, classes drawn alike."""

from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session

NAMES = {"competition": "acse4-ml-2020", "name": "acse4-resnet18"}
MODEL = {"arch": "resnet18", "image_size": 224, "epochs": 15, "batch_size": 64}
LEARNING = {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "label_smoothing": 0.0}
SAMPLING = {"val_fraction": 0.1, "weighted_sampling": True}
# A mirror image is the only augmentation: resize, centre crop, flip.
AUGMENT = {"flip": True, "random_crop": False, "rotation": 0.0, "scale": 0.0}
AUGMENT |= {"brightness": 0.0, "contrast": 0.0}

if __name__ == "__main__":  # child processes import this file again
    run_session(train, TrainConfig(**NAMES, **MODEL, **LEARNING, **SAMPLING, **AUGMENT))
