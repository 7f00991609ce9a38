"""What an epoch shows: known before it begins, and the same for all who ask."""

import numpy as np
import pytest
import torch

from xraycomp.data.batches import ImageSet, balanced_weights
from xraycomp.model.epoch import plan_epoch

CPU = torch.device("cpu")


class Flat:
    """Images of one gray each, whose row is their value."""

    def gather(self, rows):
        return rows.astype(np.float32)[:, None, None, None]


def some(n, n_classes=3, unknown=slice(0)):
    targets = np.eye(n_classes, dtype=np.float32)[np.arange(n) % n_classes]
    targets[unknown] = np.nan
    return ImageSet(Flat(), np.arange(n), targets)


def test_every_image_is_shown_once_with_its_own_targets(plain_config):
    films = some(50)
    plan = plan_epoch(films, None, plain_config(), 3, CPU)
    assert sorted(plan.order) == list(range(50))
    np.testing.assert_array_equal(plan.targets, films.targets[plan.order])
    assert (plan.n_known == 3).all()
    assert len(plan.draws.theta) == 50
    np.testing.assert_array_equal(plan.places(slice(8, 16)), np.arange(8, 16))


def test_each_epoch_and_seed_has_draws_of_its_own_and_only_these(plain_config):
    films = some(40)
    weights = balanced_weights(films.targets)

    def theta(epoch, seed=0):
        return plan_epoch(
            films, weights, plain_config(rotation=9.0, seed=seed), epoch, CPU
        ).draws.theta

    assert torch.equal(theta(1), theta(1))
    assert not torch.equal(theta(1), theta(2))
    assert not torch.equal(theta(1), theta(1, seed=5))


def test_mixup_mixes_images_and_targets_with_the_same_share(plain_config):
    films = some(60, n_classes=60)
    plan = plan_epoch(films, None, plain_config(mixup=0.4), 0, CPU)
    assert sorted(plan.partners) == list(range(60))
    for part in (slice(0, 8), slice(24, 32)):
        rows = films.rows[plan.order[plan.places(part)]]
        assert len(rows) == 16
        mixed = plan.mix(torch.from_numpy(films.cache.gather(rows)), part)
        # Target k is all of class k and image k is the gray k.
        wanted = plan.targets[part] @ torch.arange(60.0)
        torch.testing.assert_close(mixed[:, 0, 0, 0], wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(plan.targets[part].sum(dim=1), torch.ones(8))


def test_mixup_draws_its_shares_from_a_symmetric_beta(plain_config):
    alpha = 0.4
    shares = plan_epoch(some(3000), None, plain_config(mixup=alpha), 0, CPU).lambdas.numpy()
    assert abs(np.mean(shares) - 0.5) < 0.03
    assert abs(np.var(shares) - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_mixing_with_what_is_not_known_is_not_known(plain_config):
    films = some(30, unknown=(slice(0, 12), 1))
    plan = plan_epoch(films, None, plain_config(mixup=0.4), 0, CPU)
    unknown = np.isnan(films.targets[plan.order])
    unknown |= unknown[plan.partners]
    np.testing.assert_array_equal(plan.targets.isnan(), unknown)
    np.testing.assert_array_equal(plan.n_known, (~unknown).sum(axis=1))
    assert 12 < unknown.sum() < 30


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_without_mixup_nothing_is_mixed(plain_config, mixup):
    plan = plan_epoch(some(16), None, plain_config(mixup=mixup), 0, CPU)
    images = torch.rand(8 if not mixup else 16, 1, 4, 4)
    assert torch.equal(plan.mix(images, slice(0, 8)), images) == (not mixup)
