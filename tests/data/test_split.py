"""The split against scikit-learn's, and what it promises about patients, copies and folds."""

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from xraycomp.console.errors import UserError
from xraycomp.data.split import SplitPlan, assign_folds, split_manifest

CLASSES = ("covid", "lung_opacity", "pneumonia", "normal")


def manifest_of(labels, patients=None, n_test=0):
    n = len(labels)
    return pd.DataFrame(
        {
            "image": [f"i{row}" for row in range(n + n_test)],
            "label": [*(CLASSES[label] for label in labels), *(["?"] * n_test)],
            "patient": [*(patients if patients is not None else [""] * n), *([""] * n_test)],
            "split": ["train"] * n + ["test"] * n_test,
        }
    )


def split_of(manifest, same_side=None, classes=CLASSES, **plan):
    return split_manifest(manifest, classes, SplitPlan(**plan), same_side=same_side)


def one_hot(labels):
    return np.eye(4, dtype=np.float32)[labels]


def unequal_labels(n, seed=0):
    return np.random.default_rng(seed).choice(4, n, p=[0.05, 0.15, 0.3, 0.5])


def patients_of(n, n_patients, seed=0):
    return np.random.default_rng(seed).integers(n_patients, size=n).astype(str).astype(object)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("n", [97, 1000, 4321])
def test_class_counts_are_scikit_learns_to_one_image(n, fraction):
    labels = unequal_labels(n)
    split = split_of(manifest_of(labels), val_fraction=fraction, seed=3)
    reference = StratifiedShuffleSplit(1, test_size=fraction, random_state=0)
    _, expected = next(reference.split(labels, labels))
    ours = np.bincount(labels[split == "val"], minlength=4)
    theirs = np.bincount(labels[expected], minlength=4)
    assert np.abs(ours - theirs).max() <= 1
    assert set(split) == {"train", "val"}


def test_test_images_stay_test_images():
    split = split_of(manifest_of(unequal_labels(200), n_test=7), val_fraction=0.1)
    assert list(split[-7:]) == ["test"] * 7
    assert "test" not in set(split[:-7])


@pytest.mark.parametrize("folds", [0, 5])
def test_no_patient_stands_on_two_sides(folds):
    labels, patients = unequal_labels(3000), patients_of(3000, 700)
    manifest = manifest_of(labels, patients)
    split = split_of(manifest, val_fraction=0.1, folds=folds, fold=0, seed=1)
    assert not set(patients[split == "train"]) & set(patients[split == "val"])
    share = 1 / folds if folds else 0.1
    for label in range(4):
        of_class = labels == label
        assert np.mean(split[of_class] == "val") == pytest.approx(share, abs=0.05)


def test_images_of_no_known_patient_are_not_one_group():
    split = split_of(manifest_of(unequal_labels(400)), val_fraction=0.5)
    assert 190 < (split == "val").sum() < 210


@pytest.mark.parametrize("grouped", [False, True])
def test_every_image_is_validated_in_exactly_one_fold(grouped):
    labels = unequal_labels(1003)
    manifest = manifest_of(labels, patients_of(1003, 300) if grouped else None)
    held = [
        (split_of(manifest, val_fraction=0.1, folds=5, fold=k) == "val").to_numpy()
        for k in range(5)
    ]
    assert (np.sum(held, axis=0) == 1).all()
    sizes = [fold.sum() for fold in held]
    assert max(sizes) - min(sizes) <= (30 if grouped else 4)


def test_a_seed_repeats_a_split_and_another_one_changes_it():
    manifest = manifest_of(unequal_labels(500))
    one, same, other = (split_of(manifest, val_fraction=0.1, seed=seed) for seed in (1, 1, 2))
    assert one.equals(same)
    assert not one.equals(other)


def test_copies_stay_together_and_chain_with_patients():
    # Image 0 is a copy of image 1; 1 and 2 are one patient; 2 is a copy of 3: all on one side.
    labels = np.arange(40) % 4
    patients = np.array([""] * 40, dtype=object)
    patients[[1, 2]] = "p"
    copies = np.arange(40)
    copies[1], copies[3] = copies[0], copies[2]
    manifest = manifest_of(labels, patients)
    sides = set()
    for seed in range(12):
        split = split_of(manifest, val_fraction=0.4, seed=seed, same_side=copies)
        assert len(set(split[:4])) == 1
        sides.add(split[0])
    assert sides == {"train", "val"}


@pytest.mark.parametrize("with_copies", [False, True])
def test_only_images_of_one_patient_or_copy_are_bound_together(with_copies):
    # Patients and copies stand among images without either, which must not be taken for them.
    patients = np.array([""] * 32, dtype=object)
    patients[[2, 3]], patients[[30, 31]] = "a", "z"
    copies = np.arange(32)
    copies[1], copies[17] = 0, 16
    together = np.ones((32, 32), dtype=bool)
    for seed in range(60):
        split = split_of(
            manifest_of(np.repeat([0, 1, 2, 3], 8), patients),
            val_fraction=0.5,
            seed=seed,
            same_side=copies if with_copies else None,
        ).to_numpy()
        together &= split[:, None] == split
    pairs = {(one, other) for one, other in np.argwhere(together).tolist() if one < other}
    assert pairs == {(2, 3), (30, 31)} | ({(0, 1), (16, 17)} if with_copies else set())


def test_a_chain_through_an_image_of_the_official_test_list_binds_too():
    # Image 0 is a copy of the listed image 40, whose patient has image 1 in the training list.
    manifest = manifest_of(np.arange(41) % 4)
    manifest.loc[[1, 40], "patient"] = "p"
    manifest.loc[40, "split"] = "test"
    copies = np.arange(41)
    copies[40] = 0
    sides = set()
    for seed in range(12):
        split = split_of(
            manifest, split_by="official", val_fraction=0.4, seed=seed, same_side=copies
        )
        assert split[0] == split[1]
        sides.add(split[0])
    assert sides == {"train", "val"}


def test_a_class_too_small_for_both_sides_is_named():
    labels = np.array([0] * 50 + [1] * 50 + [2] + [3] * 50)
    with pytest.raises(UserError, match="class pneumonia has 1 "):
        split_of(manifest_of(labels), val_fraction=0.1)


def test_a_class_of_one_patient_is_too_small_however_many_images_it_has():
    labels = np.array([0] * 50 + [1] * 50 + [2] * 50 + [3] * 50)
    patients = np.where(labels == 2, "p", "").astype(object)
    with pytest.raises(UserError, match="class pneumonia has 1 "):
        split_of(manifest_of(labels, patients), val_fraction=0.1)


def test_a_class_smaller_than_the_number_of_folds_is_named():
    labels = np.array([0] * 50 + [1] * 4 + [2] * 50 + [3] * 50)
    with pytest.raises(UserError, match=r"lung_opacity has 4 .* 5 parts"):
        split_of(manifest_of(labels), val_fraction=0.1, folds=5, fold=0)


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_a_class_of_which_no_image_is_left_is_named(left):
    manifest = manifest_of(np.arange(80) % 4)
    manifest.loc[manifest["label"] == CLASSES[left], "split"] = "skipped"
    with pytest.raises(UserError, match=f"class {CLASSES[left]} has 0 "):
        split_of(manifest, val_fraction=0.1)


@pytest.mark.parametrize("folds", [0, 2, 3])
def test_every_class_stands_on_both_sides_or_there_is_an_error(folds):
    """Patients with several classes, as few as there can be: the hard case for the promise."""
    rng = np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    for _ in range(150):
        n = int(rng.integers(8, 30))
        labels = rng.choice(4, n, p=[0.1, 0.2, 0.3, 0.4])
        patients = patients_of(n, int(rng.integers(4, 14)), seed=rng.integers(1 << 30))
        manifest = manifest_of(labels, patients)
        try:
            split = split_of(manifest, val_fraction=0.2, folds=folds, fold=0)
        except UserError:
            outcomes[False] += 1
            continue
        outcomes[True] += 1
        for side in ("train", "val"):
            assert set(labels[split == side]) == {0, 1, 2, 3}
    assert min(outcomes.values()) > 5


def test_every_class_stands_in_each_of_three_parts_or_there_is_an_error():
    # Four of twelve patients of the rarest class hold all images of a more frequent one.
    labels = np.array([0] * 12 + [1] * 30 + [2] * 30 + [3] * 20)
    patients = np.array([""] * 92, dtype=object)
    patients[:12] = [f"p{n}" for n in range(12)]
    patients[72:] = [f"p{n % 4}" for n in range(20)]
    outcomes = {True: 0, False: 0}
    for seed in range(60):
        fractions = {"test_fraction": 0.25, "val_fraction": 0.25}
        try:
            split = split_of(manifest_of(labels, patients), seed=seed, **fractions)
        except UserError:
            outcomes[False] += 1
            continue
        outcomes[True] += 1
        for part in ("train", "val", "test"):
            assert set(labels[split == part]) == {0, 1, 2, 3}
    assert min(outcomes.values()) > 5


@pytest.mark.parametrize("n", [2, 3, 11])
def test_two_images_a_class_are_enough_for_two_sides(n):
    split = split_of(manifest_of(np.arange(4 * n) % 4), val_fraction=0.01)
    assert (split == "val").sum() == 4


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_and_1_is_refused(fraction):
    with pytest.raises(UserError, match="--val-fraction"):
        split_of(manifest_of(np.arange(40) % 4), val_fraction=fraction)


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (-2, 0), (5, 5), (5, -1)])
def test_a_fold_that_is_not_there_is_refused(folds, fold):
    manifest = manifest_of(np.arange(80) % 4)
    with pytest.raises(UserError, match=r"--folds is .* at least 2|--fold is .* one of 0 to"):
        split_of(manifest, val_fraction=0.1, folds=folds, fold=fold)


def test_a_million_images_of_300_000_patients_are_split_by_patient_and_class():
    n = 1_000_000
    rng = np.random.default_rng(0)
    groups = rng.integers(300_000, size=n)
    labels = rng.choice(4, n, p=[0.001, 0.1, 0.3, 0.599])
    parts = assign_folds(one_hot(labels), groups, [0.1, 0.9], seed=0)
    both = np.intersect1d(groups[parts == 0], groups[parts == 1])
    assert len(both) == 0
    for label in range(4):
        assert np.mean(parts[labels == label] == 0) == pytest.approx(0.1, abs=0.01)


def test_a_million_rows_of_a_manifest_are_split():
    n = 1_000_000
    rng = np.random.default_rng(0)
    labels = np.asarray(CLASSES, dtype=object)[rng.integers(4, size=n)]
    patients = np.char.mod("p%d", rng.integers(300_000, size=n)).astype(object)
    manifest = pd.DataFrame({"label": labels, "patient": patients, "split": "train"})
    split = split_of(manifest, val_fraction=0.1, same_side=np.arange(n))
    held = (split == "val").to_numpy()
    assert not set(patients[held]) & set(patients[~held])
    assert held.mean() == pytest.approx(0.1, abs=0.002)


FINDINGS = ("Infiltration", "Nodule", "Hernia")


def findings_of(n, seed=0, prevalence=(0.3, 0.05, 0.01), n_patients=None):
    """Images with several findings, none, or unknown ones, of patients with several images."""
    rng = np.random.default_rng(seed)
    has = rng.random((n, 3)) < prevalence
    marks = np.where(rng.random((n, 3)) < 0.05, "?", "").astype(object)
    names = marks + np.array(FINDINGS, dtype=object)
    labels = ["|".join(names[row][has[row] | (marks[row] == "?")]) for row in range(n)]
    has &= marks == ""
    patients = patients_of(n, n_patients or n // 3, seed)
    table = {"image": np.arange(n).astype(str), "label": labels, "patient": patients}
    return pd.DataFrame({**table, "split": "train"}), has


def many(manifest, **plan):
    return split_of(manifest, classes=FINDINGS, **plan).to_numpy()


def test_every_finding_is_parted_alike_and_no_patient_stands_on_two_sides():
    manifest, has = findings_of(20_000)
    split = many(manifest, test_fraction=0.15, val_fraction=0.15, seed=3)
    assert (manifest.groupby("patient")["image"].count() > 1).any()
    assert (pd.Series(split).groupby(manifest["patient"]).nunique() == 1).all()
    for part, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert np.mean(split == part) == pytest.approx(share, abs=0.001)
        # To a few images: a patient's other findings go along with the rarest.
        expected = share * has.sum(axis=0)
        assert np.abs(has[split == part].sum(axis=0) - expected).max() < 12


def test_chexnet_is_70_10_20_and_folds_leave_the_test_part_as_it_is():
    manifest, _ = findings_of(5000)
    split = many(manifest, split_by="chexnet")
    sizes = [np.mean(split == part) for part in ("train", "val", "test")]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.002)
    held = np.zeros(5000)
    for fold in range(4):
        folded = many(manifest, split_by="chexnet", folds=4, fold=fold)
        assert np.array_equal(folded == "test", split == "test")
        held += folded == "val"
    assert np.array_equal(held, split != "test")


def test_the_official_test_list_is_kept_and_validation_comes_from_the_others():
    manifest, _ = findings_of(3000)
    listed = manifest["patient"].astype(int).to_numpy() < 250
    manifest["split"] = np.where(listed, "test", "train")
    split = many(manifest, split_by="official", val_fraction=0.2)
    assert np.array_equal(split == "test", listed)
    assert np.mean(split[~listed] == "val") == pytest.approx(0.2, abs=0.01)
    assert (pd.Series(split).groupby(manifest["patient"]).nunique() == 1).all()
    # Any other split takes the listed images as it takes the rest.
    pooled = many(manifest, val_fraction=0.2)
    assert set(pooled[listed]) == {"train", "val"}
    assert "test" not in pooled


def test_patients_on_both_sides_of_an_official_list_are_told(caplog):
    manifest, _ = findings_of(3000)
    manifest.loc[:9, "split"] = "test"
    patients = manifest["patient"]
    both = set(patients[:10]) & set(patients[10:])
    many(manifest, split_by="official")
    assert f"{len(both)} patients have images in the official test list and in" in caplog.text


def test_unlabelled_test_images_stay_beside_an_official_or_other_split():
    manifest, _ = findings_of(600)
    manifest.loc[590:, ["label", "split"]] = ["?", "test"]
    split = many(manifest)
    assert np.array_equal(split == "test", np.arange(600) >= 590)
    with pytest.raises(UserError, match=r"needs an official test list.*train\.test_list"):
        many(manifest, split_by="official")
    with pytest.raises(UserError, match="has test images of its own"):
        many(manifest, split_by="chexnet")
    with pytest.raises(UserError, match="has test images of its own"):
        split_of(manifest_of(unequal_labels(200), n_test=7), test_fraction=0.2)


def test_findings_of_one_label_an_image_split_in_three_too():
    split = split_of(manifest_of(unequal_labels(1000)), test_fraction=0.15, val_fraction=0.15)
    counts = split.value_counts()
    assert counts["test"] == pytest.approx(150, abs=4)
    assert counts["val"] == pytest.approx(150, abs=4)


def test_a_finding_too_small_for_the_parts_is_named():
    manifest, _ = findings_of(500)
    manifest["label"] = manifest["label"].str.replace(r"\??Hernia", "?Hernia", regex=True)
    manifest.loc[:2, "label"] = "Nodule|Hernia"
    manifest.loc[:2, "patient"] = ["a", "a", "b"]
    assert set(many(manifest)) == {"train", "val"}
    with pytest.raises(UserError, match=r"class Hernia has 2 .* each of 3 parts .*--min-count"):
        many(manifest, test_fraction=0.2)


@pytest.mark.parametrize("fraction", [-0.1, 1, 0.95])
def test_a_test_fraction_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(UserError, match=f"--test-fraction is {fraction}"):
        split_of(manifest_of(np.arange(80) % 4), test_fraction=fraction)


def test_a_test_fraction_beside_a_split_with_its_own_is_refused():
    with pytest.raises(UserError, match=r"--test-fraction 0\.2 and --split-by chexnet contradict"):
        split_of(manifest_of(np.arange(80) % 4), test_fraction=0.2, split_by="chexnet")


@pytest.mark.parametrize(
    ("plan", "part", "said"),
    [
        (SplitPlan(), "val", "validation split, by patient, 10 %, seed 0"),
        (SplitPlan(folds=5, fold=2, seed=7), "val", "validation split, by patient, fold 2 of 5"),
        (SplitPlan(folds=5), "val", "out-of-fold validation over 5 folds, by patient, seed 0"),
        (SplitPlan(folds=5, test_fraction=0.15), "test", "test split, by patient, 15 %, seed 0"),
        (
            SplitPlan("official", folds=3),
            "val",
            "out-of-fold validation over 3 folds of the official training list, by patient, seed 0",
        ),
        (SplitPlan(test_fraction=0.15), "test", "test split, by patient, 15 %, seed 0"),
        (SplitPlan("official"), "test", "official test split"),
        (
            SplitPlan("official", drop_no_finding=True),
            "test",
            "official test split, images with findings only",
        ),
        (
            SplitPlan("official", val_fraction=0.125),
            "val",
            "validation split of the official training list, by patient, 12.5 %, seed 0",
        ),
        (
            SplitPlan("chexnet", seed=4),
            "test",
            "test split, by patient, 20 % as in CheXNet (70/10/20), seed 4",
        ),
        (SplitPlan(), "train", "training split (seen in training)"),
        (SplitPlan(), "skipped", "skipped split"),
    ],
)
def test_a_split_says_what_it_is(plan, part, said):
    manifest = manifest_of([0, 1], patients=["", "p"])
    assert plan.describe(part, manifest).startswith(said)


def test_a_split_of_unknown_patients_says_so():
    assert "by image" in SplitPlan().describe("val", manifest_of([0, 1]))


def test_a_million_rows_with_14_findings_are_split_within_seconds():
    n = 1_000_000
    rng = np.random.default_rng(0)
    prevalence = np.geomspace(0.18, 0.002, 14)
    targets = (rng.random((n, 14)) < prevalence).astype(np.float32)
    groups = rng.integers(300_000, size=n)
    began = time.monotonic()
    parts = assign_folds(targets, groups, [0.1, 0.9], seed=0)
    assert time.monotonic() - began < 20  # 1.1 s on one free core
    assert len(np.intersect1d(groups[parts == 0], groups[parts == 1])) == 0
    for column in targets.T:
        assert column[parts == 0].sum() / column.sum() == pytest.approx(0.1, abs=0.01)
