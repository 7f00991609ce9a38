"""Kernels on Kaggle: what the plain client keeps silent about is a failure here."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kaggle_server import KEY, USER, Dataset, KernelVersion

from xraycomp.console.errors import UserError
from xraycomp.kernel import main
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder
from xraycomp.remote import kernels, waiting
from xraycomp.remote.bundle import build
from xraycomp.remote.client import connect
from xraycomp.remote.datasets import publish, wait_until_ready
from xraycomp.remote.kernels import push, read_pushed, read_status, wait
from xraycomp.remote.logs import decode_log
from xraycomp.remote.metadata import write_owner
from xraycomp.remote.outputs import pull

KERNELS = Path(__file__).parents[2] / "kernels"


@pytest.fixture
def folder(tmp_path):
    """A kernel's folder with the user's name in it, not built yet."""
    copied = tmp_path / "kernels/phantom-resnet18"
    shutil.copytree(
        KERNELS / "phantom-resnet18", copied, ignore=shutil.ignore_patterns("kernel.py")
    )
    write_owner(copied, USER)
    return copied


@pytest.fixture
def change(folder):
    """Change fields of the kernel's metadata."""

    def write(**fields):
        path = folder / "kernel-metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return write


@pytest.fixture
def pushed(signed_in, folder):
    """Build and push the folder; returns what was pushed."""

    def run():
        bundle = build(folder)
        with connect() as kaggle:
            return push(kaggle, bundle)

    return run


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(waiting, "_FIRST_PAUSE", 0.01)


def output_of(server, files, status="COMPLETE", log="done\n"):
    """Let kernels end like that; ``kernel.json`` tells the version's own digest and run."""

    def run(version: KernelVersion):
        facts = {
            "sha256": re.search(r"^# sha256: (\w+)$", version.text, re.M)[1],
            "run": re.search(r'^RUN = "(\w*)"$', version.text, re.M)[1],
        }
        return status, log, {"kernel.json": json.dumps(facts).encode()} | files

    server.run_kernel = run


def test_the_request_is_the_one_that_the_plain_client_makes(
    signed_in, folder, change, pushed, kaggle_cli
):
    change(enable_gpu=True, machine_shape="NvidiaTeslaT4")
    note = pushed()
    assert (note.ref, note.version) == (f"{USER}/phantom-resnet18", 1)
    assert read_pushed(folder) == note
    done = kaggle_cli("kernels", "push", "-p", folder)
    assert "version 2 successfully pushed" in done.stdout
    ours, plain = signed_in.calls("SaveKernel")
    assert ours.pop("text") == plain["text"].replace('RUN = ""', f'RUN = "{note.run}"')
    assert ours == {key: value for key, value in plain.items() if key != "text"}


@pytest.mark.parametrize("kind", ["Dataset", "Competition", "Kernel", "Model"])
def test_a_dropped_source_is_a_failure(signed_in, pushed, kind):
    signed_in.fault(
        "SaveKernel",
        answer={
            "ref": f"/code/{USER}/phantom-resnet18",
            "versionNumber": 1,
            f"invalid{kind}Sources": ["ada/gone"],
        },
    )
    with pytest.raises(UserError, match=r"version 1 but dropped its .* ada/gone"):
        pushed()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": "Notebook is too large."}, "did not take the kernel .*: Notebook is too large"),
        ({"ref": "/code/ada/phantom-resnet18"}, "gave no version"),
        ({"ref": "/code/ada/other-name", "versionNumber": 1}, "calls the kernel /code/ada/other"),
        (
            {"ref": "/code/ada/phantom-resnet18", "versionNumber": 1, "invalidTags": ["chest"]},
            "dropped its tags chest",
        ),
    ],
)
def test_a_refusal_with_status_200_is_a_failure(signed_in, folder, pushed, answer, said):
    signed_in.fault("SaveKernel", answer=answer)
    with pytest.raises(UserError, match=said):
        pushed()
    # What runs on Kaggle now is noted all the same, so that it can be followed.
    assert (folder / "pushed.json").exists() == ("versionNumber" in answer)


def test_a_push_whose_answer_is_lost_is_recognised(signed_in, pushed):
    signed_in.fault("SaveKernel", lose_answer=True)
    assert pushed().version == 1
    assert len(signed_in.calls("SaveKernel")) == 1


def test_a_push_that_never_arrived_says_so(signed_in, pushed):
    signed_in.fault("SaveKernel", drop=True)
    with pytest.raises(UserError, match="No version with this run is there yet: push again"):
        pushed()
    assert len(signed_in.calls("SaveKernel")) == 1


def test_a_competition_whose_rules_are_not_accepted_is_told_before_the_push(
    signed_in, pushed, change
):
    signed_in.competitions["closed-one"] = {"a.csv": b"1"}
    signed_in.fault("ListDataFiles", status=403)
    change(competition_sources=["closed-one"])
    with pytest.raises(UserError, match="c/closed-one/rules"):
        pushed()
    assert signed_in.calls("SaveKernel") == []


@pytest.mark.parametrize("content", [b"new and longer", b"new"])
def test_a_fresh_data_set_version_is_waited_for(signed_in, pushed, change, tmp_path, content):
    signed_in.ready_after, signed_in.listing_lag = 2, 2
    signed_in.datasets["ada/weights"] = Dataset([{"w.pt": b"old"}])
    (tmp_path / "w.pt").write_bytes(content)
    with connect() as kaggle:
        assert publish(kaggle, "ada/weights", [tmp_path / "w.pt"]) == 2
    assert signed_in.datasets["ada/weights"].current == 2
    change(dataset_sources=["ada/weights"])
    pushed()
    version = signed_in.kernels["ada/phantom-resnet18"].versions[0]
    assert version.datasets == {"ada/weights": 2}


def test_a_data_set_that_is_still_being_made_holds_the_push_back(signed_in, pushed, change):
    signed_in.datasets["ada/weights"] = Dataset([{"w.pt": b"1"}, {"w.pt": b"22"}], unready=2)
    change(dataset_sources=["ada/weights"])
    pushed()
    version = signed_in.kernels["ada/phantom-resnet18"].versions[0]
    assert version.datasets == {"ada/weights": 2}


def test_a_new_data_set_is_made_and_listed(signed_in, tmp_path):
    (tmp_path / "resnet18.pt").write_bytes(b"weights" * 1000)
    signed_in.ready_after = 1
    half = [{"name": "resnet18.pt", "totalBytes": 3000, "creationDate": "2024-01-01T00:00:00Z"}]
    signed_in.fault("ListDatasetFiles", answer={"datasetFiles": half})
    with connect() as kaggle:
        assert publish(kaggle, "ada/resnet-weights", [tmp_path / "resnet18.pt"]) == 1
    held = signed_in.datasets["ada/resnet-weights"].versions
    assert held == [{"resnet18.pt": b"weights" * 1000}]
    request = signed_in.calls("CreateDataset")[0]
    assert request["isPrivate"] is True
    assert len(signed_in.calls("ListDatasetFiles")) == 2  # again, until it has its size


def test_the_weights_of_a_kernel_are_published_under_its_name(signed_in, folder, tmp_path):
    files = {name: tmp_path / name for name in ("a.pt", "b.pt")}
    for name, path in files.items():
        path.write_text(name)
    main(["weights", str(folder), "--weights", *map(str, files.values())])
    [held] = signed_in.datasets["ada/phantom-resnet18-weights"].versions
    assert held == {"a.pt": b"a.pt", "b.pt": b"b.pt"}


def test_a_data_set_of_a_longer_name_is_not_the_attached_one(
    signed_in, folder, change, tmp_path, caplog
):
    (tmp_path / "w.pt").write_bytes(b"1")
    command = [
        "weights",
        str(folder),
        "--dataset",
        "ada/weights",
        "--weights",
        str(tmp_path / "w.pt"),
    ]
    change(dataset_sources=["ada/weights-small"])
    with caplog.at_level("INFO", "xraycomp"):
        main(command)
        assert "Attach it with 'ada/weights'" in caplog.text
        caplog.clear()
        change(dataset_sources=["ada/weights/2"])
        main(command)
    assert "ready" in caplog.text and "Attach it" not in caplog.text


@pytest.mark.parametrize("method", ["CreateDataset", "CreateDatasetVersion"])
@pytest.mark.parametrize(
    "answer", [{"status": "error", "error": "The slug is taken."}, {"status": "The slug is taken."}]
)
def test_a_data_set_error_with_status_200_is_a_failure(signed_in, tmp_path, method, answer):
    (tmp_path / "a.pt").write_bytes(b"1")
    if method == "CreateDatasetVersion":
        signed_in.datasets["ada/weights"] = Dataset([{"a.pt": b"0"}])
    signed_in.fault(method, answer=answer)
    with connect() as kaggle, pytest.raises(UserError, match="The slug is taken"):
        publish(kaggle, "ada/weights", [tmp_path / "a.pt"])


@pytest.mark.parametrize("method", ["CreateDataset", "CreateDatasetVersion"])
def test_a_data_set_whose_answer_is_lost_is_made_once(signed_in, tmp_path, method):
    (tmp_path / "a.pt").write_bytes(b"1")
    if method == "CreateDatasetVersion":
        signed_in.datasets["ada/weights"] = Dataset([{"a.pt": b"0"}])
    signed_in.fault(method, lose_answer=True)
    with connect() as kaggle:
        version = publish(kaggle, "ada/weights", [tmp_path / "a.pt"])
    assert version == len(signed_in.datasets["ada/weights"].versions)
    assert len(signed_in.calls(method)) == 1


def test_a_data_set_that_kaggle_will_not_show_is_not_taken_for_a_missing_one(signed_in, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"1")
    signed_in.fault("GetDataset", status=400)
    with connect() as kaggle, pytest.raises(UserError, match="refused to show the data set"):
        publish(kaggle, "ada/weights", [tmp_path / "a.pt"])
    assert signed_in.datasets == {}


def test_an_upload_that_breaks_off_is_sent_again(signed_in, tmp_path):
    (tmp_path / "a.pt").write_bytes(os.urandom(200_000))
    signed_in.fault("PUT blob", truncate=50_000)
    with connect() as kaggle:
        publish(kaggle, "ada/weights", [tmp_path / "a.pt"])
    assert signed_in.datasets["ada/weights"].versions[0]["a.pt"] == (tmp_path / "a.pt").read_bytes()


def test_a_failed_data_set_is_said_at_once(signed_in, monkeypatch):
    signed_in.datasets["ada/weights"] = Dataset([{"a": b"1"}])
    signed_in.fault("GetDatasetStatus", answer={"status": "FAILED"})
    with connect() as kaggle, pytest.raises(UserError, match="is FAILED on Kaggle"):
        wait_until_ready(kaggle, "ada/weights")


def test_waiting_follows_to_the_end_through_network_errors(signed_in, pushed, caplog):
    caplog.set_level("INFO", "xraycomp")
    signed_in.run_kernel = lambda version: (
        ["QUEUED", "QUEUED", "RUNNING", "RUNNING", "COMPLETE"], "hello\n", {},
    )  # fmt: skip
    note = pushed()
    signed_in.fault("GetKernelSessionStatus", drop=True, times=7)
    with connect() as kaggle:
        wait(kaggle, note, poll=0.02)
    said = [line.split(": ")[1] for line in caplog.messages if "version 1: " in line]
    assert [state for state in said if "no answer" not in state] == [
        "queued",
        "running",
        "complete",
    ]
    assert any("asking again" in state for state in said)


@pytest.mark.parametrize(
    ("status", "said"), [("ERROR", "failed"), ("CANCEL_ACKNOWLEDGED", "was cancelled")]
)
def test_a_failed_kernel_is_a_failure_with_the_end_of_its_log(signed_in, pushed, status, said):
    text = "".join(f"line {n}\n" for n in range(30)) + "ValueError: the planted one\n"
    signed_in.run_kernel = lambda version: (["RUNNING", status], text, {})
    note = pushed()
    with connect() as kaggle, pytest.raises(UserError, match=said) as caught:
        wait(kaggle, note, poll=0.01)
    lines = str(caught.value).splitlines()
    assert lines[-1].strip() == "ValueError: the planted one"
    assert len(lines) == 2 + kernels.LOG_LINES


def test_a_log_is_decoded():
    events = [
        {"stream_name": "stdout", "time": 1.0, "data": "Epoch 1: 10%\rEpoch 1: 100%\n"},
        {"stream_name": "stderr", "time": 2.0, "data": "half a "},
        {"stream_name": "stderr", "time": 2.1, "data": "line\n\n"},
    ]
    assert decode_log(json.dumps(events)) == ["Epoch 1: 100%", "half a line"]
    assert decode_log("not JSON\nat all") == ["not JSON", "at all"]
    assert decode_log("") == []


def test_all_pages_of_the_output_come_home_as_a_run(signed_in, pushed, tmp_path):
    run = {f"runs/phantom/part_{n}.txt": b"%d" % n for n in range(230)}
    output_of(signed_in, run | {"runs/phantom/submission.csv": b"a", "submission.csv": b"a"})
    note = pushed()
    with connect() as kaggle:
        home = pull(kaggle, note, tmp_path / "runs", tmp_path / "submissions")
    assert home == tmp_path / "runs/phantom-resnet18-v1"
    assert {path.name for path in home.iterdir()} == {
        *(f"part_{n}.txt" for n in range(230)), "submission.csv", "kernel.json", "kernel.log",
    }  # fmt: skip
    assert (home / "kernel.log").read_text() == "done\n"
    assert (tmp_path / "submissions/phantom-resnet18-v1.csv").read_bytes() == b"a"
    with connect() as kaggle, pytest.raises(UserError, match="is there already"):
        pull(kaggle, note, tmp_path / "runs", tmp_path / "submissions")


@pytest.mark.parametrize("competition", ["phantom", "/kaggle/src/mine.toml"])
def test_a_run_that_came_home_names_the_places_of_this_machine(
    signed_in, pushed, tmp_path, competition
):
    kaggle = Path("/kaggle/working")
    config = TrainConfig(
        competition=competition,
        name="r",
        data=Path("/kaggle/input/phantom"),
        resume=kaggle / "runs/r",
        data_dir=Path("/tmp/x"),
        runs_dir=kaggle / "runs",
        submissions_dir=kaggle / "submissions",
        epochs=3,
        folds=2,
    )
    fold = replace(config, name="r-fold1", fold=1, runs_dir=config.runs_dir / "r")
    held = {"runs/r/config.json": config, "runs/r/r-fold1/config.json": fold}
    files = {name: json.dumps(each.to_json()).encode() for name, each in held.items()}
    output_of(signed_in, files)
    note = pushed()
    with connect() as client:
        home = pull(client, note, tmp_path / "runs", tmp_path / "submissions")
    assert RunFolder(home).config() == replace(
        config,
        competition="phantom" if competition == "phantom" else str(home / "competition.toml"),
        name=home.name,
        data=None,
        resume=None,
        data_dir=Path("data"),
        runs_dir=tmp_path / "runs",
        submissions_dir=tmp_path / "submissions",
    )
    found = RunFolder(home).folds()[1].config()
    assert (found.name, found.data, found.runs_dir) == ("r-fold1", None, home)


def test_several_runs_that_came_home_name_the_places_of_this_machine(signed_in, pushed, tmp_path):
    kaggle, held = Path("/kaggle/working"), {}
    for name, competition in {"a": "phantom", "b": "/kaggle/src/mine.toml"}.items():
        config = TrainConfig(
            competition=competition,
            name=name,
            data=Path("/kaggle/input/phantom"),
            resume=kaggle / "runs" / name,
            data_dir=Path("/tmp/x"),
            runs_dir=kaggle / "runs",
            submissions_dir=kaggle / "submissions",
            folds=2,
        )
        fold = replace(config, name=f"{name}-fold0", fold=0, runs_dir=config.runs_dir / name)
        held |= {f"runs/{name}/config.json": config, f"runs/{name}/{fold.name}/config.json": fold}
    files = {name: json.dumps(each.to_json()).encode() for name, each in held.items()}
    output_of(signed_in, files)
    note = pushed()
    with connect() as client:
        home = pull(client, note, tmp_path / "runs", tmp_path / "submissions")
    for place, config in held.items():
        run = RunFolder((home / place).parent)
        own = run.path if config.fold is None else run.path.parent
        assert run.config() == replace(
            config,
            competition="phantom" if own.name == "a" else str(run.path / "competition.toml"),
            data=None,
            resume=None,
            data_dir=Path("data"),
            runs_dir=run.path.parent,
            submissions_dir=(home if config.fold is None else own) / "submissions",
        )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"kernel.json": b'{"sha256": "another", "run": ""}'}, "made by the bundle another, not"),
        ({"kernel.json": b"{}"}, "does not say which code made it"),
        ({"../evil.sh": b"x"}, "unsafe file name"),
        ({"..\\evil.sh": b"x"}, "unsafe file name"),
    ],
)
def test_foreign_output_is_refused_and_nothing_kept(signed_in, pushed, tmp_path, files, said):
    output_of(signed_in, files)
    note = pushed()
    with connect() as kaggle, pytest.raises(UserError, match=said):
        pull(kaggle, note, tmp_path / "runs", tmp_path / "submissions")
    assert list((tmp_path / "runs").iterdir()) == []
    assert not (tmp_path / "evil.sh").exists()


def test_a_version_that_is_still_running_is_not_pulled(signed_in, pushed, tmp_path):
    output_of(signed_in, {"runs/r/a.txt": b"half"}, status=["RUNNING"])
    note = pushed()
    with connect() as kaggle, pytest.raises(UserError, match="version 1 is running"):
        pull(kaggle, note, tmp_path / "runs", tmp_path / "submissions")


def test_output_of_an_earlier_push_of_the_same_code_is_refused(signed_in, pushed, tmp_path):
    output_of(signed_in, {"runs/r/a.txt": b"1"})
    pushed()
    note = pushed()
    first, second = signed_in.kernels["ada/phantom-resnet18"].versions
    second.files = dict(first.files)  # as Kaggle serves it while the new version starts
    with connect() as kaggle, pytest.raises(UserError, match="another push of the same code"):
        pull(kaggle, note, tmp_path / "runs", tmp_path / "submissions")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_push_that_never_arrived_is_not_taken_for_an_earlier_one(signed_in, pushed):
    pushed()
    signed_in.fault("SaveKernel", drop=True)
    with pytest.raises(UserError, match="No version with this run is there yet"):
        pushed()


def test_a_failure_is_told_even_where_its_log_cannot_be_had(signed_in, pushed):
    signed_in.run_kernel = lambda version: (["ERROR"], "", {})
    note = pushed()
    signed_in.fault("ListKernelSessionOutput", status=404)
    with connect() as kaggle, pytest.raises(UserError, match="version 1 failed"):
        wait(kaggle, note, poll=0.01)


def test_of_all_kernels_each_has_its_turn(signed_in, pushed, folder, refused, caplog):
    ignore = shutil.ignore_patterns("kernel.py")
    for name in ("acse4-resnet18", "openi-cnn-codes"):
        shutil.copytree(KERNELS / name, folder.parent / name, ignore=ignore)
    signed_in.run_kernel = lambda version: (["ERROR"], "the planted failure\n", {})
    note = pushed()
    flags = ("all", "--kernels-dir", str(folder.parent))
    with caplog.at_level("INFO", "xraycomp"):
        main(["status", *flags])  # those that were never pushed are no failure
    assert sum("Nothing was pushed from" in line for line in caplog.messages) == 2
    assert any(line.startswith(f"{note.label}: error. Pushed") for line in caplog.messages)
    assert "sources here have changed" not in caplog.text
    with (folder / "train.py").open("a") as script, caplog.at_level("INFO", "xraycomp"):
        script.write("# changed\n")
        script.flush()
        main(["status", str(folder)])
    assert "The sources here have changed since: that version runs older code." in caplog.text
    (folder.parent / "openi-cnn-codes/pushed.json").write_text("{}")
    said = refused(main, "wait", *flags)
    assert said == "2 of 3 kernels failed: openi-cnn-codes, phantom-resnet18. See above."
    main(["check", *flags])
    with pytest.raises(UserError, match=f"{note.label} failed"):
        main(["wait", str(folder)])


def test_ctrl_c_while_all_are_pushed_waits_for_the_answer_and_pushes_no_more(
    signed_in, folder, refused
):
    second = shutil.copytree(folder, folder.with_name("second"))
    path = second / "kernel-metadata.json"
    named = {"id": f"{USER}/second", "title": "second"}
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    signed_in.fault("SaveKernel", delay=0.5)

    def interrupt():
        while not signed_in.calls("SaveKernel"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    said = refused(main, "push", "all", "--kernels-dir", str(folder.parent))
    assert re.search("Interrupted after .* was pushed. Follow it with: .* wait phantom", said)
    assert read_pushed(folder).version == 1
    assert len(signed_in.calls("SaveKernel")) == 1


def test_a_copied_kernel_does_not_overwrite_the_original(folder):
    second = shutil.copytree(folder, folder.parent / "second")
    with pytest.raises(UserError, match="the folder is called second but id names the kernel"):
        build(second)


def test_internet_has_to_be_allowed_to_the_command(folder, change, refused):
    change(enable_internet=True)
    assert "--allow-internet" in refused(main, "build", str(folder))
    main(["build", str(folder), "--allow-internet"])


def test_a_script_that_does_not_compile_is_not_built(folder):
    (folder / "train.py").write_text("raise SystemExit(\n")
    with pytest.raises(UserError, match=r"kernel/train.py is not valid Python"):
        build(folder)


def test_a_first_version_whose_listing_lags_is_waited_for(signed_in, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"1")
    signed_in.ready_after, signed_in.listing_lag = 2, 1
    with connect() as kaggle:
        assert publish(kaggle, "ada/weights", [tmp_path / "w.pt"]) == 1


def test_output_comes_from_the_version_that_was_pushed(signed_in, pushed, tmp_path):
    output_of(signed_in, {"runs/r/a.txt": b"of version 1"})
    note = pushed()
    output_of(signed_in, {"runs/r/a.txt": b"of version 2", "kernel.json": b"{}"})
    pushed()
    with connect() as kaggle:
        assert read_status(kaggle, note)[0] == "COMPLETE"
        home = pull(kaggle, note, tmp_path / "runs", tmp_path / "submissions")
    assert (home / "a.txt").read_bytes() == b"of version 1"


def test_an_output_file_that_breaks_off_is_gone_on_with(signed_in, pushed, tmp_path):
    data = os.urandom(300_000)
    output_of(signed_in, {"runs/r/best.pt": data})
    note = pushed()
    signed_in.fault("GET blob", truncate=100_000, times=2)
    with connect() as kaggle:
        home = pull(kaggle, note, tmp_path / "runs", tmp_path / "submissions")
    assert (home / "best.pt").read_bytes() == data


def test_waiting_can_be_interrupted_and_taken_up_again(
    signed_in, pushed, folder, environment, tmp_path
):
    signed_in.run_kernel = lambda version: (["RUNNING"], "", {})
    pushed()
    command = [sys.executable, "-m", "xraycomp.kernel", "wait", "phantom-resnet18", "--poll", "0.1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**environment, **signed_in.environment(tmp_path / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "running" in process.stdout.readline()
        process.send_signal(2)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Interrupted."
    signed_in.kernels["ada/phantom-resnet18"].versions[0].statuses = ["COMPLETE"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**environment, **signed_in.environment(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
