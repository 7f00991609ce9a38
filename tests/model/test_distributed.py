"""Several processes that train one network together, as real processes on the CPU."""

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from PIL import Image

import xraycomp
from xraycomp.console.errors import UserError
from xraycomp.job.training import train
from xraycomp.model.checkpoint import read_checkpoint
from xraycomp.model.distributed import count_processes, share_batch_norm
from xraycomp.model.run import RunFolder
from xraycomp.model.zoo import create_model
from xraycomp.train import main

# A network without batch norm and dropout; with everything that looks at a whole batch.
BASE = "--arch timm:test_convnext --image-size 32 --epochs 2 --batch-size 4 --accumulate 2"
RICH = "--optimizer adamw --lr 0.002 --mixup 0.4 --erasing 0.5 --ema-decay 0.9 --class-weights"
FLAGS = f"{BASE} {RICH} --swa-epochs 2 --device cpu".split()
SECOND_EPOCH_STEPS = re.compile(r"Epoch 2/2: +[1-9]")  # its progress bar past 0 %
ENDS_WITHIN = 120  # seconds until a process must have got somewhere; not a measure of speed


@pytest.fixture(scope="module")
def data(tmp_path_factory, draw_film):
    """A folder with 150 training films in three classes and 7 test films."""
    root = tmp_path_factory.mktemp("competition") / "films"
    rng = np.random.default_rng(0)
    for index in range(157):
        label = index % 3
        folder = root / ("test" if index >= 150 else f"train/{('top', 'below', 'none')[label]}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_film(label, rng, 36)).save(folder / f"film_{index}.png")
    return root


def flags_of(data, folder, *flags):
    places = ["--data", data, "--data-dir", data.parent / "data", "--name", "one"]
    places += ["--runs-dir", folder / "runs", "--submissions-dir", folder / "submissions"]
    return [str(flag) for flag in (*FLAGS, *places, *flags)]


@pytest.fixture(scope="module", autouse=True)
def _as_a_command():
    """Say what a command says, and draw with one thread as the processes do."""
    logger = logging.getLogger("xraycomp")
    before = logger.level, torch.get_num_threads()
    logger.setLevel(logging.INFO)
    torch.set_num_threads(1)
    yield
    logger.setLevel(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    main(flags_of(data, folder))
    return folder / "runs" / "one"


TRAIN = ("-m", "xraycomp.train")
TORCHRUN = ("-m", "torch.distributed.run")
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(xraycomp.__file__).parents[1]),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start Python as a process; gives it and the file that holds what it says."""
    folder, processes = tmp_path_factory.mktemp("said"), []

    def start_python(*args):
        said = folder / str(len(processes))
        with said.open("w") as output:
            command = [sys.executable, *map(str, args)]
            process = subprocess.Popen(
                command, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT
            )
        processes.append(process)
        return process, said

    yield start_python
    for process in processes:
        process.kill()
        process.wait()


COUNTING = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from xraycomp.console.command import run_command
from xraycomp.train import main

reduced, all_reduce = [], dist.all_reduce

def count(tensor, *args):
    reduced.append(tensor.numel())
    all_reduce(tensor, *args)

dist.all_reduce = count
path = Path(sys.argv.pop(1))
try:
    run_command(main)
finally:
    path.write_text(json.dumps(reduced))
"""


@pytest.fixture(scope="module")
def machines(data, start, tmp_path_factory):
    """The same run of two machines with a process each, started by torchrun: what each has.

    They share no disk: each has a copy of the data of its own.
    """
    folder = tmp_path_factory.mktemp("machines")
    script = folder / "counting.py"
    script.write_text(COUNTING)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found, started = [folder / "0", folder / "1"], []
    for number, machine in enumerate(found):
        films = shutil.copytree(data, machine / "copy" / data.name)
        nodes = ("--nnodes", 2, "--node-rank", number, "--nproc-per-node", 1)
        meet = ("--master-addr", "127.0.0.1", "--master-port", port)
        flags = (machine / "reduced", *flags_of(films, machine))
        started.append(start(*TORCHRUN, *nodes, *meet, script, *flags))
    for (process, said), machine in zip(started, found, strict=True):
        assert process.wait(ENDS_WITHIN) == 0, said.read_text()
        shutil.copy(said, machine / "said")
    return found


@pytest.fixture(scope="module")
def together(machines):
    """The run folder of the two, which the first machine has."""
    return machines[0] / "runs" / "one"


def assert_same_training(found, wanted):
    """Equal losses an epoch and final weights, but for the order in which sums are added up."""
    tables = [pd.read_csv(run / "metrics.csv") for run in (found, wanted)]
    assert [list(table["epoch"]) for table in tables] == [[1, 2, 3], [1, 2, 3]]
    for column in ("train_loss", "val_loss", "lr"):
        np.testing.assert_allclose(*(table[column] for table in tables), atol=1e-5)
    contents = [read_checkpoint(run / "checkpoint.pt") for run in (found, wanted)]
    for part in ("model", "ema", "swa"):
        states = [content[part] for content in contents]
        assert list(states[0]) == list(states[1])
        for key, value in states[1].items():
            torch.testing.assert_close(states[0][key], value, atol=1e-5, rtol=0)
    assert contents[0]["epoch"] == contents[1]["epoch"] == 2


def test_two_processes_train_as_one_does(together, alone):
    assert_same_training(together, alone)
    start = create_model("timm:test_convnext", 3).state_dict()
    trained = read_checkpoint(together / "checkpoint.pt")["model"]
    assert start.keys() == trained.keys()
    moved = [(trained[key] - value).abs().max() for key, value in start.items() if value.ndim > 1]
    assert min(moved) > 1e-3  # else nothing would have been compared


def test_the_folder_of_a_run_of_two_processes_is_whole(together, alone):
    files, wanted = (
        {str(path.relative_to(run)) for path in run.rglob("*")} for run in (together, alone)
    )
    assert files == wanted
    for name in ("submission.csv", "predictions/test.csv", "predictions/val.csv", "manifest.csv"):
        assert len(pd.read_csv(together / name)) == len(pd.read_csv(alone / name)), name
    assert len(pd.read_csv(together / "submission.csv")) == 7
    for split in ("val", "test"):  # odd numbers of images, shared among two
        found, wanted = (pd.read_csv(run / f"predictions/{split}.csv") for run in (together, alone))
        assert list(found["image"]) == list(wanted["image"])
        pd.testing.assert_frame_equal(found, wanted, atol=1e-5, rtol=0)
    assert (together / "manifest.csv").read_bytes() == (alone / "manifest.csv").read_bytes()
    assert list(together.parents[1].rglob("*.tmp")) == []


def test_gradients_are_exchanged_once_a_step_and_in_one_message(machines):
    network = create_model("timm:test_convnext", 3)
    gradients = sum(parameter.numel() for parameter in network.parameters())
    steps = 135 // 8  # of two parts of four images
    for machine in machines:
        reduced = json.loads((machine / "reduced").read_text())
        assert reduced.count(gradients) == 2 * steps
        assert max(size for size in reduced if size != gradients) <= 16


def test_the_main_process_alone_writes_a_run_and_speaks(machines):
    main_one, other = machines
    assert {path.name for path in other.iterdir()} == {"copy", "reduced", "said"}
    log = (main_one / "runs" / "one" / "train.log").read_text()
    lines = (re.sub(r"^\d{4}-\S+ \S+ ", "", line) for line in log.splitlines())  # without the time
    messages = [line for line in lines if line]
    spoken, quiet = ((machine / "said").read_text() for machine in machines)
    assert len(messages) > 5
    assert "Checked submission of 7 rows" in spoken
    assert [message for message in messages if message not in spoken] == []
    # torchrun itself may say more: that the other machine has gone, for example.
    assert [message for message in messages if message in quiet] == []
    assert "train loss" not in quiet
    assert "Epoch" not in quiet


def test_what_two_processes_do_is_logged_once(together, alone):
    logs = []
    for run in (alone, together):
        lines = (run / "train.log").read_text().splitlines()
        assert sum("train loss" in line for line in lines) == 2
        # Without what differs: times, devices, places and all digits.
        own = rf"\(.* img/s\)|on cpu|on 2 devices|{run.parents[1]}|\d"
        logs.append([re.sub(own, "", line) for line in lines])
    assert logs[0] == logs[1]


def wait_for_the_second_epoch(process, said):
    latest = time.monotonic() + ENDS_WITHIN
    while not SECOND_EPOCH_STEPS.search(said.read_text()):
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < latest
        time.sleep(0.002)


def last_line(said):
    return said.read_text().splitlines()[-1].rpartition("\r")[2].strip()


def test_a_stopped_run_of_two_processes_goes_on_in_one(start, data, alone, tmp_path):
    process, said = start(*TRAIN, *flags_of(data, tmp_path, "--devices", 2))
    run = tmp_path / "runs" / "one"
    wait_for_the_second_epoch(process, said)
    process.terminate()
    assert process.wait(ENDS_WITHIN) == 128 + signal.SIGTERM
    kept = read_checkpoint(run / "checkpoint.pt")
    assert kept["epoch"] == 1
    step = kept["progress"]["step"]
    assert step > 0
    assert last_line(said) == (
        f"Stopped in epoch 2 after {step} steps. "
        f"Go on with: python -m xraycomp.train --resume {run}"
    )
    assert "Traceback" not in said.read_text()
    assert said.read_text().count("Epoch 1/2: train loss") == 1
    main(["--resume", str(run), "--devices", "1"])
    assert_same_training(run, alone)


def workers_of(pid, mark=b"spawn_main"):
    """The processes that ``pid`` has started to train, in the order in which it did."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if parent == pid and mark in command:
            yield int(folder.name)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")
def test_a_run_of_one_process_goes_on_in_two_and_where_one_of_these_is_killed_in_one_again(
    data, alone, tmp_path, capfd
):
    main(flags_of(data, tmp_path, "--time-limit", 0.0001))
    run = tmp_path / "runs" / "one"
    assert read_checkpoint(run / "checkpoint.pt")["progress"]["step"] == 1
    for name in ("metrics.json", "submission.csv"):
        (run / name).unlink()
    capfd.readouterr()
    killed, written = [], (run / "checkpoint.pt").stat().st_mtime_ns

    def kill_in_the_second_epoch():
        latest = time.monotonic() + ENDS_WITHIN
        while (run / "checkpoint.pt").stat().st_mtime_ns == written and time.monotonic() < latest:
            time.sleep(0.002)
        killed.extend(workers_of(os.getpid()))
        os.kill(max(killed), signal.SIGKILL)

    killer = threading.Thread(target=kill_in_the_second_epoch)
    killer.start()
    with pytest.raises(UserError) as caught:
        main(["--resume", str(run), "--devices", "2"])
    killer.join()
    assert re.fullmatch(
        r"Training process [12] of 2 died \(killed by SIGKILL\)\. "
        rf"Go on with: python -m xraycomp\.train --resume {re.escape(str(run))}",
        str(caught.value),
    )
    assert len(killed) == 2
    assert not any(Path(f"/proc/{worker}").exists() for worker in killed)
    assert not (run / "metrics.json").exists()
    # The process that goes on says each thing once; this one, without a terminal, says nothing.
    said = [line.split()[0] for line in capfd.readouterr().out.splitlines()]
    kinds = ["films:", "Leak", "Training", "timm:test_convnext:", "Continuing", "The", "Epoch"]
    assert said == kinds
    kept = read_checkpoint(run / "checkpoint.pt")
    assert (kept["epoch"], kept["progress"]["step"]) == (1, 0)
    main(["--resume", str(run), "--devices", "1"])
    assert_same_training(run, alone)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find processes")
def test_a_run_of_torchrun_whose_main_process_is_killed_goes_on_without_it(
    start, data, alone, tmp_path
):
    flags = flags_of(data, tmp_path)
    process, said = start(*TORCHRUN, "--nproc-per-node", 2, *TRAIN, *flags)
    run = tmp_path / "runs" / "one"
    wait_for_the_second_epoch(process, said)
    ranks = sorted(workers_of(process.pid, b"xraycomp.train"))
    numbers = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in ranks]
    os.kill(ranks[[b"RANK=0" in number for number in numbers].index(True)], signal.SIGKILL)
    assert process.wait(ENDS_WITHIN) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert said.read_text().count("training processes died.") == 1
    advice = f"Go on with: python -m xraycomp.train --resume {run}\n"
    assert f"Another of the 2 training processes died. {advice}" in said.read_text()
    kept = read_checkpoint(run / "checkpoint.pt")
    assert (kept["epoch"], kept["progress"]["step"]) == (1, 0)
    resumed = replace(RunFolder(run).config(), resume=run, devices=2)
    assert train(resumed) == RunFolder(run)
    assert_same_training(run, alone)
    assert len(pd.read_csv(run / "submission.csv")) == 7


JOB = """
import torch
from xraycomp.console.errors import UserError
from xraycomp.model.distributed import broadcast, all_reduce_max, even_share, gather_rows, rank
from xraycomp.model.distributed import share_buffers

def refuse(n_rows):
    norm = torch.nn.BatchNorm1d(1)
    norm.running_mean += 1 + rank()
    share_buffers(norm)
    share = even_share(n_rows)
    rows = gather_rows(share[:, None] + norm.running_mean.double().numpy(), n_rows)
    if rank() == 1:
        raise UserError(f"The second one has {len(share)} of {rows[:, 0].tolist()}. Mend it.")
    broadcast(None), all_reduce_max(0)  # waits for the other

def divide():
    if rank() == 0:
        1 / 0
    all_reduce_max(0)
"""
KERNEL = """
import signal
import job  # found beside this script
from xraycomp.console.errors import UserError
from xraycomp.model.processes import launch

print("begins", flush=True)
handler = signal.getsignal(signal.SIGINT)
try:
    launch(job.refuse, 2, 5)
except UserError as error:
    print(error)
assert signal.getsignal(signal.SIGINT) is handler
try:
    launch(job.divide, 2)
except ZeroDivisionError as error:
    print(error, "in divide" in error.__notes__[0])
"""


def test_what_one_process_raises_reaches_a_script_that_guards_nothing(tmp_path):
    """A kernel's script is not run again in the processes, though it has no ``__main__`` guard."""
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "kernel.py").write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, "kernel.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "begins",
        "The second one has 3 of [1.0, 2.0, 3.0, 4.0, 5.0]. Mend it.",
        "division by zero True",
    ]
    assert done.stderr == ""


def test_a_batch_that_cannot_be_shared_equally_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="--batch-size 4 cannot be shared equally among 3 devices"):
        main(flags_of(data, tmp_path, "--devices", 3))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("devices", "device", "processes"), [(None, "cpu", 1), (1, "cpu", 1), (4, "cpu", 4)]
)
def test_one_process_trains_unless_more_are_asked_for(devices, device, processes):
    assert count_processes(devices, torch.device(device), 8) == processes


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_one_device_cannot_be_several(device):
    assert count_processes(None, torch.device(device), 8) == 1
    with pytest.raises(UserError, match=f"--devices is 2, but --device {device} is one"):
        count_processes(2, torch.device(device), 8)


def test_another_number_of_devices_than_torchrun_has_started_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert count_processes(None, torch.device("cpu"), 8) == 1
        assert count_processes(1, torch.device("cpu"), 8) == 1
        with pytest.raises(UserError, match="--devices is 2, but torchrun has started 1 process"):
            count_processes(2, torch.device("cpu"), 8)
    finally:
        dist.destroy_process_group()


def test_more_processes_than_gpus_are_refused():
    there = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"but there are {there} GPUs here"):
        count_processes(there + 1, torch.device("cuda"), (there + 1) * 8)


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "timm:test_efficientnet"])
def test_shared_batch_norm_has_the_keys_parameters_and_logits_of_its_own(arch):
    """Its statistics need GPUs; what is judged afterwards does not."""
    torch.manual_seed(0)
    model = create_model(arch, 3).eval()
    images = torch.randn(2, 1, 64, 64)
    wanted, before = model(images), dict(model.named_parameters())
    keys = list(model.state_dict())
    share_batch_norm(model)
    kinds = [type(module) for module in model.modules()]
    assert any(issubclass(kind, torch.nn.SyncBatchNorm) for kind in kinds)
    assert not any(issubclass(kind, torch.nn.BatchNorm2d) for kind in kinds)
    assert list(model.state_dict()) == keys
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    torch.testing.assert_close(model(images), wanted)
