"""The drawn competition (phantoms, not X-rays): a run on the CPU that tries the whole way."""

from xraycomp.data.competition_file import load_competition
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session
from xraycomp.train import train

if __name__ == "__main__":  # child processes import this file again
    recipe = load_competition("phantom").recipe
    names = {"competition": "phantom", "name": "phantom-resnet18", "arch": "resnet18"}
    run_session(train, TrainConfig.from_recipe(recipe, "phantom", **names))
