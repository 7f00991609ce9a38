"""The drawn competition on Kaggle's CPU: the whole way, tried without data, weights and GPU."""

from xraycomp.job.training import train
from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session

if __name__ == "__main__":  # child processes import this file again
    run_session(train, TrainConfig.for_competition("phantom", name="phantom-resnet18"))
