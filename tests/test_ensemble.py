"""The ensemble command as a user types it: runs, and tables from anywhere."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from drawn_run import CLASSES, draw_run
from scipy.special import expit, softmax

from xraycomp import ensemble, evaluate
from xraycomp.data.duplicates import describe_copies
from xraycomp.data.files import write_csv
from xraycomp.data.labels import encode_targets
from xraycomp.data.predictions import probability_table, read_predictions
from xraycomp.ensembles.member_tables import read_runs
from xraycomp.judging.combining import cross_fit_limits, deal_folds, fit_weights
from xraycomp.judging.thresholds import Thresholds
from xraycomp.model.run import RunFolder

FINDINGS = ("Effusion", "Mass", "Pleural_Thickening")


def ids_and_probs(path, classes):
    table = read_predictions(path, classes)
    return list(table["image"]), table[list(classes)].to_numpy()


@pytest.fixture
def runs(tmp_path):
    """Two runs that differ by their luck, and a weak one."""
    return [
        draw_run(tmp_path / "runs" / name, n=600, seed=seed, strength=strength)
        for name, seed, strength in (("A", 1, 2.0), ("B", 2, 2.0), ("C", 3, 0.2))
    ]


@pytest.fixture
def finding_runs(tmp_path):
    return [
        draw_run(tmp_path / name, n=600, seed=seed, classes=FINDINGS, task="multilabel")
        for name, seed in (("A", 1), ("B", 2))
    ]


def test_the_mean_of_runs_is_judged_as_any_table_is(runs, tmp_path, caplog):
    output = tmp_path / "ensembles" / "abc"
    with caplog.at_level("INFO", "xraycomp"):
        ensemble.main(["--runs", *map(str, runs), "--output", str(output)])
    each = [ids_and_probs(run / "predictions" / "val.csv", CLASSES) for run in runs]
    images, probs = ids_and_probs(output / "predictions" / "val.csv", CLASSES)
    assert images == each[0][0]
    np.testing.assert_allclose(probs, np.mean([found for _, found in each], axis=0), atol=2e-6)
    table = ["--run", runs[0], "--predictions", output / "predictions" / "val.csv"]
    evaluate.main([*map(str, table), "--output", str(tmp_path / "judged")])
    ours, theirs = (json.loads((f / "metrics.json").read_text())
                    for f in (output, tmp_path / "judged"))  # fmt: skip
    assert ours["overall"]["macro_auroc"] == pytest.approx(theirs["overall"]["macro_auroc"])
    assert ours["split"] == theirs["split"] == "validation split, by patient, 10 %, seed 0"
    report = json.loads((output / "ensemble.json").read_text())
    by_us = report["methods"]["mean"]["overall"]["macro_auroc"]
    assert by_us == pytest.approx(theirs["overall"]["macro_auroc"])
    path = runs[1] / "predictions" / "val.csv"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["members"][1]["files"] == [{"path": str(path), "sha256": digest}]
    weak = report["members"][2]
    assert weak["name"] == "C"
    assert weak["overall"]["macro_auroc"]["value"] < 0.65
    assert "mean minus the best member alone" in caplog.text
    for name in ("roc.png", "reliability.png", "confusion.png", "calibration.json"):
        assert (output / name).is_file()
        assert name in caplog.text.splitlines()[-1]


def test_weights_are_found_on_all_images_and_judged_without_them(runs, tmp_path, caplog):
    manifest = RunFolder.open(runs[0]).manifest()
    test = [f"test_{i}" for i in range(30)]
    rng = np.random.default_rng(0)
    tables = [softmax(rng.normal(size=(30, 4)), axis=1) for _ in runs]
    for run, probs in zip(runs, tables, strict=True):
        # The same images in another order.
        order = rng.permutation(30)
        table = probability_table([test[i] for i in order], probs[order], CLASSES)
        write_csv(run / "predictions" / "test.csv", table)
    output = tmp_path / "E"
    with caplog.at_level("INFO", "xraycomp"):
        flags = ["--method", "weighted", "--output", str(output)]
        ensemble.main(["--runs", *map(str, runs), *flags])
    each = [ids_and_probs(run / "predictions" / "val.csv", CLASSES) for run in runs]
    labels = manifest.set_index("image")["label"].loc[each[0][0]]
    probs = np.stack([found for _, found in each])
    weights = fit_weights(encode_targets(labels, CLASSES), probs, one_class=True)
    assert weights[2] < 0.15
    report = json.loads((output / "ensemble.json").read_text())
    assert report["learned"]["weights"] == pytest.approx(weights.tolist(), abs=1e-4)
    assert f"{weights[0]:.3f} A" in caplog.text
    images, found = ids_and_probs(output / "predictions" / "test.csv", CLASSES)
    first = ids_and_probs(runs[0] / "predictions" / "test.csv", CLASSES)[0]
    assert images == first
    expected = np.tensordot(weights, np.stack(tables), 1)[[test.index(name) for name in images]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # The validation table is not the one of these weights.
    ours = ids_and_probs(output / "predictions" / "val.csv", CLASSES)[1]
    assert np.abs(ours - np.tensordot(weights, probs, 1)).max() > 1e-3
    judged_on = json.loads((output / "metrics.json").read_text())["split"]
    assert judged_on.endswith(", weighted cross-fitted")


def test_a_vote_on_findings_is_judged_without_the_runs_own_thresholds_and_predicts_at_them(
    finding_runs, tmp_path, caplog
):
    tables, votes = [], []
    for seed, run in enumerate(finding_runs):
        # Chosen on the images that it is judged on, or on any others.
        limits = np.array([0.3, 0.6, 0.8])
        Thresholds(dict(zip(FINDINGS, limits.tolist(), strict=True)), "f1", "elsewhere").write(
            run / "thresholds.json"
        )
        probs = np.random.default_rng(seed).random((30, 3))
        table = probability_table([f"test_{i}" for i in range(30)], probs, FINDINGS)
        write_csv(run / "predictions" / "test.csv", table)
        votes.append(probs >= limits)
        images, known = ids_and_probs(run / "predictions" / "val.csv", FINDINGS)
        tables.append(known)
    output = tmp_path / "E"
    with caplog.at_level("INFO", "xraycomp"):
        flags = ["--method", "vote", "--output", str(output)]
        ensemble.main(["--runs", *map(str, finding_runs), *flags])
    found = ids_and_probs(output / "predictions" / "test.csv", FINDINGS)[1]
    np.testing.assert_array_equal(found, np.mean(votes, axis=0))

    manifest = RunFolder.open(finding_runs[0]).manifest().set_index("image").loc[images]
    targets = encode_targets(manifest["label"], FINDINGS).astype(float)
    fold = deal_folds(targets, pd.factorize(manifest["patient"])[0])
    options = (FINDINGS, "f1", fold)
    limits = [cross_fit_limits(targets, table, *options) for table in tables]
    found = ids_and_probs(output / "predictions" / "val.csv", FINDINGS)[1]
    np.testing.assert_array_equal(found, np.mean(np.array(tables) >= limits, axis=0))

    # Half of the members are enough, in all that is written.
    assert "it calls what\nhalf the members do" in caplog.text
    assert not (output / "thresholds.json").exists()
    ours, all_methods = (
        json.loads((output / name).read_text()) for name in ("metrics.json", "ensemble.json")
    )
    assert ours["split"].endswith(", vote cross-fitted")
    voted = all_methods["methods"]["vote"]["overall"]
    assert ours["overall"]["macro_f1"]["value"] == pytest.approx(voted["macro_f1"]["value"])


def test_an_id_of_a_training_and_of_a_test_image_is_no_reason_to_stumble(runs, tmp_path):
    for run in runs[:2]:
        manifest = RunFolder.open(run).manifest()
        held = manifest[manifest["split"] == "val"].iloc[0]
        again = held.to_frame().T.assign(path="test/0", label="", patient="other", split="test")
        write_csv(run / "manifest.csv", pd.concat([manifest, again]))
    members = read_runs(runs[:2])
    patients = manifest[manifest["split"] == "val"].set_index("image")["patient"]
    same = np.equal.outer(members.groups, members.groups)
    ours = patients.loc[members.images].to_numpy()
    np.testing.assert_array_equal(same, np.equal.outer(ours, ours))


def test_copies_of_two_patients_are_in_one_group(runs):
    for run in runs[:2]:
        manifest = RunFolder.open(run).manifest()
        held = manifest[manifest["split"] == "val"]
        first, last = held.iloc[0], held.iloc[-1]
        assert first["patient"] != last["patient"]
        # By way of a third image, that is in no one's validation split.
        place = np.flatnonzero(manifest["split"] == "train")[0]
        rows = [held.index[0], place, held.index[-1]]
        copies = pd.DataFrame({"a": rows[:2], "b": rows[1:], "kind": "near"})
        write_csv(run / "duplicates.csv", describe_copies(copies, manifest))
    members = read_runs(runs[:2])
    places = [members.images.index(one["image"]) for one in (first, last)]
    assert members.groups[places[0]] == members.groups[places[1]]
    fold = deal_folds(members.targets, members.groups)
    assert fold[places[0]] == fold[places[1]]


def test_runs_are_judged_on_what_all_have_held_out(tmp_path, caplog):
    runs = [draw_run(tmp_path / str(seed), n=900, split_seed=seed) for seed in (0, 1)]
    held = [
        manifest["image"][manifest["split"] == "val"]
        for manifest in (RunFolder.open(run).manifest() for run in runs)
    ]
    both = [name for name in held[0] if name in set(held[1])]
    assert 10 < len(both) < 90
    with caplog.at_level("INFO", "xraycomp"):
        ensemble.main(["--runs", *map(str, runs), "--output", str(tmp_path / "E")])
    assert f"{len(both):,} images are held out by all runs" in caplog.text
    assert ids_and_probs(tmp_path / "E" / "predictions" / "val.csv", CLASSES)[0] == both
    judged_on = json.loads((tmp_path / "E" / "metrics.json").read_text())["split"]
    assert judged_on == "validation images that all 2 runs have held out"


@pytest.fixture
def foreign(tmp_path):
    """Three tables, each with its own spelling and order, and labels with gaps."""
    rng, n = np.random.default_rng(0), 120
    targets = (rng.random((n, 3)) < 0.4).astype(float)
    ids = [f"{i:05}_000" for i in range(n)]
    members = expit(rng.normal(size=(3, n, 3)) + 2 * (targets - 0.5))
    shown = pd.DataFrame(targets, columns=list(FINDINGS)).astype(object)
    shown[rng.random((n, 3)) < 0.1] = ""
    shown.insert(0, "Image Index", [f"{name}.png" for name in ids])
    shown.to_csv(tmp_path / "L.csv", index=False)
    spell = [("image", "{}", "{}"), ("file", "pred_{}", "images/{}.png"), ("id", "p {}", "{}.jpg")]
    for number, (key, pattern, name) in enumerate(spell):
        for split, size in (("", n), ("_test", 40)):
            probs = members[number, :size] if not split else members[number, :size] / 2
            table = pd.DataFrame(probs, columns=[pattern.format(c) for c in FINDINGS])
            table.insert(0, key, [name.format(one) for one in ids[:size]])
            # The columns too stand elsewhere.
            columns = [key, *rng.permutation(list(table.columns[1:]))]
            table = table[columns].sample(frac=1, random_state=number)
            table.to_csv(tmp_path / f"{number}{split}.csv", index=False)
    return ids, members


def test_tables_from_anywhere(foreign, tmp_path, monkeypatch, caplog):
    ids, members = foreign
    monkeypatch.chdir(tmp_path)
    tables = ["--predictions", "0.csv", "1.csv", "2.csv", "--labels", "L.csv"]
    tables += ["--test", "0_test.csv", "1_test.csv", "2_test.csv"]
    with caplog.at_level("INFO", "xraycomp"):
        ensemble.main([*tables, "--output", "E", "--split-name", "validation of the others"])
    classes = json.loads((tmp_path / "E" / "ensemble.json").read_text())["classes"]
    order = [FINDINGS.index(name) for name in classes]
    images, found = ids_and_probs(tmp_path / "E" / "predictions" / "val.csv", tuple(classes))
    places = [ids.index(name) for name in images]
    assert sorted(images) == ids
    np.testing.assert_allclose(found, members.mean(axis=0)[places][:, order], atol=1e-6)
    images, found = ids_and_probs(tmp_path / "E" / "predictions" / "test.csv", tuple(classes))
    places = [ids.index(name) for name in images]
    assert sorted(images) == ids[:40]
    np.testing.assert_allclose(found, members.mean(axis=0)[places][:, order] / 2, atol=1e-6)
    report = json.loads((tmp_path / "E" / "metrics.json").read_text())
    assert report["split"] == "validation of the others"
    assert sum(row["unknown"] for row in report["classes"].values()) > 10
    members = json.loads((tmp_path / "E" / "ensemble.json").read_text())["members"]
    assert [one["name"] for one in members] == ["0.csv", "1.csv", "2.csv"]
    assert [file["path"] for file in members[2]["files"]] == ["2.csv", "2_test.csv"]


def test_tables_of_other_images_are_combined_where_they_meet(foreign, tmp_path, caplog):
    table = pd.read_csv(tmp_path / "1.csv", dtype=str).iloc[:50]
    table.to_csv(tmp_path / "1.csv", index=False)
    names = [str(tmp_path / f"{i}.csv") for i in (0, 1)]
    flags = ["--labels", str(tmp_path / "L.csv"), "--output", str(tmp_path / "E")]
    with caplog.at_level("INFO", "xraycomp"):
        ensemble.main(["--predictions", *names, *flags])
    assert f"50 images are in all tables ({names[1]} has 50, another" in caplog.text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--runs runs/A runs/B", "Say where the ensemble shall go with --output"),
        ("--runs runs/A --output E", "An ensemble needs two runs at least; 1 was given"),
        ("--runs runs/A runs/../runs/A --output E", "One of the runs is named twice"),
        ("--runs runs/A nowhere --output E", "nowhere is not a run folder"),
        ("--runs runs/A runs/D --output E", "different classes"),
        ("--runs runs/A runs/F --output E", "No image is held out by all of these runs, .*--seed"),
        ("--runs runs/A runs/B --labels L.csv --output E", "--labels would do nothing beside"),
        ("--runs runs/A runs/B --output runs/A --overwrite", "runs/A holds files and is no ens"),
        ("--runs runs/A runs/B --output runs/A/config.json", "config.json is a file. Name a"),
        ("--predictions a.csv b.csv --output E", "Say what to combine"),
        ("--output E", "Say what to combine: --runs RUN RUN, or --predictions"),
        ("--runs runs/A runs/B --method best --output E", "--method"),
    ],
)
def test_mistakes_are_one_sentence(runs, tmp_path, refused, match, flags, said):
    draw_run(tmp_path / "runs" / "D", classes=("a", "b", "c"))
    other = draw_run(tmp_path / "runs" / "F", n=600, seed=1)
    manifest = pd.read_csv(other / "manifest.csv", dtype=str, keep_default_na=False)
    taken = manifest["split"] == "val"
    manifest["split"] = np.where(taken, "train", np.where(manifest.index < 100, "val", "train"))
    write_csv(other / "manifest.csv", manifest)
    images = list(manifest["image"])
    table = probability_table(images, np.full((600, 4), 0.25), CLASSES)
    write_csv(other / "predictions" / "val.csv", table)
    match(said, refused(ensemble.main, *flags.split()))
    assert not (tmp_path / "E").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--predictions 0.csv --labels L.csv", "An ensemble needs two tables at least"),
        ("--predictions 0.csv 1.csv --labels L.csv --test 0_test.csv", "--test names 1 tables and"),
        ("--predictions 0.csv 1.csv --labels L.csv --test 0_test.csv 1.csv", "not of the same im"),
        ("--predictions 0.csv few.csv --labels L.csv", "few.csv has no column for Mass"),
        ("--predictions 0.csv 9.csv --labels L.csv", "There is no prediction table 9.csv"),
    ],
)
def test_tables_that_do_not_fit_are_refused(foreign, tmp_path, refused, match, flags, said):
    few = pd.read_csv(tmp_path / "0.csv", dtype=str).drop(columns="Mass")
    few.to_csv(tmp_path / "few.csv", index=False)
    match(said, refused(ensemble.main, *flags.split(), "--output", "E"))
    assert not (tmp_path / "E").exists()


def test_other_labels_are_refused(runs, tmp_path, refused, match):
    manifest = pd.read_csv(runs[1] / "manifest.csv", dtype=str, keep_default_na=False)
    manifest["label"] = np.where(manifest.index % 9, manifest["label"], CLASSES[0])
    write_csv(runs[1] / "manifest.csv", manifest)
    match("have other labels in", refused(ensemble.main, "--runs", *runs, "--output", "E"))


def test_an_ensemble_is_replaced_on_request_only(runs, tmp_path, refused, match):
    flags = ["--runs", *map(str, runs[:2]), "--output", str(tmp_path / "E")]
    ensemble.main(flags)
    (tmp_path / "E" / "stale.png").write_text("")
    match("holds an earlier ensemble", refused(ensemble.main, *flags))
    ensemble.main([*flags, "--method", "max", "--overwrite"])
    assert not (tmp_path / "E" / "stale.png").exists()
    assert json.loads((tmp_path / "E" / "ensemble.json").read_text())["method"] == "max"


def test_a_test_split_that_differs_is_said_and_left_out(runs, tmp_path, caplog):
    for number, run in enumerate(runs[:2]):
        table = probability_table([f"t{number}"], np.full((1, 4), 0.25), CLASSES)
        write_csv(run / "predictions" / "test.csv", table)
    for given in (runs[:2], runs[1:]):
        caplog.clear()
        with caplog.at_level("INFO", "xraycomp"):
            flags = ["--output", str(tmp_path / "E"), "--overwrite"]
            ensemble.main(["--runs", *map(str, given), *flags])
        assert "Nothing is predicted of the test split: " in caplog.text
        assert not (tmp_path / "E" / "predictions" / "test.csv").exists()
