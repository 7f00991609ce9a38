"""A greedy soup: one network that averages the weights of several runs.

Wortsman et al., "Model Soups: Averaging Weights of Multiple Fine-tuned Models Improves Accuracy
without Increasing Inference Time", ICML 2022.
"""

import copy
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xraycomp.console.errors import UserError
from xraycomp.data.batches import ImageSet
from xraycomp.data.files import write_json
from xraycomp.job.beginning import Job
from xraycomp.job.finishing import finish, predict_splits
from xraycomp.job.images import open_images
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model.averaging import average_weights, recompute_batch_norm
from xraycomp.model.checkpoint import load_best, save_best
from xraycomp.model.environment import describe_environment
from xraycomp.model.heatmaps import map_pairs
from xraycomp.model.judge import Judge
from xraycomp.model.run import RunFolder, check_free
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)

_ALIKE = ("arch", "channels", "pool", "head", "image_size", "cache_size", "laplacian", "monitor")
"""Settings that make the network and what it sees, and the score that chooses."""


@dataclass(frozen=True)
class _Member:
    """A run, its best weights and how good these are by themselves."""

    run: RunFolder
    state: Mapping[str, Tensor]
    value: float
    """The score that chooses; more is better."""


@dataclass(frozen=True)
class _Scorer:
    """What averages are made and scored with."""

    model: GrayModel
    """Holds one average after the other."""
    train: ImageSet
    judge: Judge

    def value(self, states: Sequence[Mapping[str, Tensor]]) -> float:
        """How good the average of several networks is, which ``model`` then holds."""
        self.model.load_state_dict(average_weights(states))
        if len(states) > 1:
            recompute_batch_norm(self.model, self.train, self.judge.config)
        return self.judge.value(self.judge.scores(self.model))


def make_soup(
    runs: Sequence[Path],
    name: str,
    device: torch.device,
    *,
    runs_dir: Path,
    submissions_dir: Path,
    overwrite: bool = False,
) -> RunFolder:
    """Average the weights of ``runs`` greedily into a new run ``name``, and return it.

    In the order of their validation scores each run is added, and stays if the average is not worse
    with it. Every average gets batch-norm statistics of its own. Settings, split and training
    images are those of the first run that is named. Nothing is written before the soup is known.

    Raises ``UserError`` for runs that have no average: of other networks, image sizes, classes or
    validation images, or judged by another score.
    """
    folders = [RunFolder.open(path) for path in runs]
    _check(folders)
    first, path = folders[0], runs_dir / name
    config = replace(first.config(), name=name, runs_dir=runs_dir, submissions_dir=submissions_dir)
    if path.resolve() in {run.path.resolve() for run in folders}:
        raise UserError(f"{path} is one of --runs. Give the soup another --name.")
    check_free(path, overwrite=overwrite)
    images = open_images(first, "val", None, Path())
    dataset = images.dataset
    score = functools.partial(epoch_scores, multilabel=first.competition().multilabel)
    judge = Judge(dataset.split("val"), config, first, score)
    networks = [load_best(run, device) for run in folders]
    states = [copy.deepcopy(network.state_dict()) for network in networks]
    _check_networks(folders, networks)
    scorer = _Scorer(networks[0], dataset.learned(), judge)
    members = [
        _Member(run, state, scorer.value([state]))
        for run, state in zip(folders, states, strict=True)
    ]
    told = _select(scorer, sorted(members, key=lambda member: -member.value))
    run = RunFolder.create(
        path,
        config,
        first.competition(),
        dataset.manifest,
        first.duplicates(),
        describe_environment(),
    )
    save_best(scorer.model, 0, config, run)
    write_json(run.soup, told)
    with run.log():
        job = Job(config, run, images.source, dataset)
        draw = functools.partial(map_pairs, scorer.model, dataset, config=config, desc="Explain")
        finish(job, draw, predict_splits(job, scorer.model))
    run.mark_finished()
    return run


def _select(scorer: _Scorer, members: Sequence[_Member]) -> dict[str, Any]:
    """Leave the greedy soup of ``members``, the best one first, in the scorer's model; what to
    tell of it."""
    monitor, sign = scorer.judge.config.monitor, 1.0
    if monitor == "val_loss":
        sign = -1.0
    kept, best, told = [members[0]], members[0].value, []
    for member in members:
        value = member.value
        if member is not members[0]:
            value = scorer.value([each.state for each in (*kept, member)])
            if value >= best:
                kept, best = [*kept, member], value
        told.append(
            {
                "run": str(member.run.path),
                monitor: sign * member.value,
                "with_it": sign * value,
                "kept": member in kept,
            }
        )
        log.info(
            "%s: %s %.4f by itself, %.4f with those before: %s.",
            member.run.path,
            monitor,
            sign * member.value,
            sign * value,
            "kept" if member in kept else "left out",
        )
    uniform = scorer.value([member.state for member in members])
    score = (
        uniform if len(kept) == len(members) else scorer.value([member.state for member in kept])
    )
    log.info(
        "The soup of %d of %d runs has a %s of %.4f; of all of them alike, %.4f.",
        len(kept),
        len(members),
        monitor,
        sign * score,
        sign * uniform,
    )
    return {
        "monitor": monitor,
        "members": told,
        "score": sign * score,
        "uniform_score": sign * uniform,
    }


def _check(folders: Sequence[RunFolder]) -> None:
    if len(folders) < 2:
        raise UserError("A soup needs two runs or more. Name them with --runs runs/A runs/B.")
    if len({run.path.resolve() for run in folders}) < len(folders):
        raise UserError("A run is named twice in --runs. Name each once.")
    if several := [run for run in folders if run.config().split_plan().all_folds]:
        raise UserError(
            f"{several[0].path} is a run of all folds, whose networks were validated on different "
            "images. Name runs of one split."
        )
    first = folders[0]
    for run in folders[1:]:
        for name in _ALIKE:
            one, other = getattr(first.config(), name), getattr(run.config(), name)
            if one != other:
                raise UserError(
                    f"{run.path} has the {name} {other}, but {first.path} {one}; weights are "
                    "averaged only of runs that agree in it. Combine their predictions instead: "
                    "python -m xraycomp.ensemble --runs ..."
                )
        if run.competition().classes != first.competition().classes:
            raise UserError(
                f"{run.path} and {first.path} have different classes, so their weights have no "
                "average. Name runs of one competition."
            )
        if _validation(run) != _validation(first):
            raise UserError(
                f"{run.path} and {first.path} have different validation images: one would be "
                "judged by what it learned. Name runs of one split (--seed, --val-fraction)."
            )


def _validation(run: RunFolder) -> dict[str, str]:
    manifest = run.manifest()
    val = manifest[manifest["split"] == "val"]
    return dict(zip(val["image"], val["label"], strict=True))


def _check_networks(folders: Sequence[RunFolder], networks: Sequence[GrayModel]) -> None:
    """Raise ``UserError`` for networks whose stems were folded from other normalisations."""
    kinds = [(network.planes, network.mean, network.std, network.rgb) for network in networks]
    for run, kind in zip(folders, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(
                f"{run.path} normalises images otherwise than {folders[0].path}, since it began "
                "from other weights. Name runs that began from the same ones."
            )
