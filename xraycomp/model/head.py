"""Transfer in two steps: first the head alone learns, on codes, then the whole network.

A head learns in seconds from codes, since the body, which costs nearly all the time, has run once
an image. Then head and body are one network again, ready to be fine-tuned.
"""

import dataclasses
import logging

import numpy as np
import torch
from torch import nn

from xraycomp.data.dataset import Dataset
from xraycomp.model.checkpoint import read_checkpoint, restore_state, save_best, save_state
from xraycomp.model.codes import build_codes, code_sets
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import NO_DEADLINE, Deadline
from xraycomp.model.distributed import first_on_its_machine, from_main, is_main
from xraycomp.model.engine import fit
from xraycomp.model.judge import Score
from xraycomp.model.run import RunFolder
from xraycomp.model.state import start_state
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)


def fit_head(
    model: GrayModel,
    dataset: Dataset,
    config: TrainConfig,
    run: RunFolder,
    score: Score,
    device: torch.device,
    deadline: Deadline = NO_DEADLINE,
) -> None:
    """Train the head of ``model`` on codes for ``config.codes_epochs``, by the usual loop.

    The head's own course is kept in ``run``'s folder ``head``. Afterwards the run's ``best.pt`` is
    the whole network with the best head, until fine-tuning betters it, and training goes on from
    its ``checkpoint.pt``. Called again after an interruption, it goes on with what there is.

    To show a rare class as often as the others by mirrored copies, let the codes have passes
    (``codes_passes``, ``flip``) and sampling be weighted (``weighted_sampling``).

    Raises
    ------
    Stopped : after Ctrl-C or SIGTERM
    UserError : at the deadline before there is any head, and where the head is not linear
    """
    model = model.to(device).to(memory_format=torch.channels_last)
    train, val = dataset.learned(), dataset.split("val")
    rows = np.union1d(train.rows, val.rows)
    head_run = RunFolder(run.path / "head")
    head_config = dataclasses.replace(
        config, epochs=config.codes_epochs, stages="", start_size=0, swa_epochs=0
    )
    linear = model.body.get_submodule(model.parts.head)
    # The very layers of the network, not copies: what is trained here is trained there.
    head = GrayModel(nn.Sequential(nn.Flatten(), linear), model.arch, model.mean, model.std, 1)
    head.classes, head.activation = model.classes, model.activation
    with first_on_its_machine():
        codes = build_codes(model, dataset.cache, rows, config, deadline)
    coded_train, coded_val = code_sets(codes, rows, train, val)
    head_state = start_state(head, len(coded_train), head_config, device)
    if from_main(head_run.checkpoint.is_file):
        saved = from_main(lambda: read_checkpoint(head_run.checkpoint))
        restore_state(head_state, saved, head_config, str(head_run.checkpoint))
    log.info("First the head alone is trained, on codes.")
    fit(head_state, coded_train, coded_val, head_config, head_run, score, deadline)
    head.load_state_dict(from_main(lambda: read_checkpoint(head_run.best))["model"])
    state = start_state(model, len(train), config, device)
    state.best = head_state.best
    if is_main():
        save_best(state.judged, 0, config, run)
        save_state(state, config, run)
    if head_state.best_epoch >= 0:  # else the deadline came before
        best = abs(state.best)  # a loss is kept with its sign turned
        log.info("The head's best %s is %.4f. Next, the whole network.", config.monitor, best)
