"""What the plain ``kaggle`` command, version 2.2.4, does not say, or says and exits with 0.

Each test is one such trap, shown on the unmodified client; xraycomp's own commands are there to do
better on the same fault. A test that fails after an update of ``kaggle`` is good news.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kaggle_protocol import TOKEN, USER, Dataset, KernelVersion
from kaggle_server import KEY, KaggleServer

Cli = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]

FILES = "competitions files xray-demo"
DOWNLOAD = "competitions download xray-demo -p data"
SUBMIT = "competitions submit xray-demo -f submission.csv -m first"
PUSH = "kernels push -p kernel"
CALLS = {
    "ListDataFiles": FILES,
    "DownloadDataFiles": DOWNLOAD,
    "CreateSubmission": SUBMIT,
    "SaveKernel": PUSH,
}


@pytest.fixture
def silent(kaggle_cli: Cli) -> Callable[..., str]:
    """Run a command that must exit with 0; return what it said."""

    def run(command: str) -> str:
        done = kaggle_cli(*command.split())
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done
        return done.stdout

    return run


@pytest.fixture
def zip_path(tmp_path: Path) -> Path:
    return tmp_path / "data/xray-demo.zip"


# Kernels.


def test_a_refused_push_exits_with_0(
    kaggle: KaggleServer, silent: Callable[..., str], kernel: Write
) -> None:
    """An answer with an ``error`` is printed on stdout, and the exit code is 0."""
    kaggle.fault("SaveKernel", answer={"error": "Maximum batch GPU session count of 2 reached."})
    assert silent(PUSH).startswith("Kernel push error: Maximum batch GPU session count of 2")
    assert kaggle.kernels == {}


@pytest.mark.parametrize(
    ("key", "source", "said"),
    [
        ("dataset_sources", "ada/no-such-data", "not valid dataset sources"),
        ("competition_sources", "no-such-slug", "not valid competition sources"),
        ("kernel_sources", "ada/no-such-kernel", "not valid kernel sources"),
        ("keywords", "no-such-tag", "not valid tags"),
        ("model_sources", "ada/resnet/pyTorch/18/1", ""),
    ],
)
def test_a_source_that_does_not_exist_is_left_out_of_the_kernel(
    silent: Callable[..., str], kernel: Write, key: str, source: str, said: str
) -> None:
    """The kernel is "successfully pushed" without its data; of a model nothing is said at all."""
    kernel(**{key: [source]})
    heard = silent(PUSH)
    assert "Kernel version 1 successfully pushed" in heard
    assert said in heard
    assert (source in heard) == bool(said)


@pytest.mark.parametrize("key", ["enable_internt", "internet"])
def test_internet_is_on_unless_the_metadata_spell_it_right(
    kaggle: KaggleServer, silent: Callable[..., str], kernel: Write, key: str
) -> None:
    """An unknown key is ignored, and ``enable_internet`` is true when it is not there."""
    kernel(enable_internet=None, **{key: False})
    assert "warn" not in silent(PUSH).lower()
    assert kaggle.calls("SaveKernel")[0]["enableInternet"] is True
    assert key not in str(kaggle.calls("SaveKernel")[0])


def test_only_the_code_file_is_sent(
    kaggle: KaggleServer, silent: Callable[..., str], kernel: Write
) -> None:
    """A module that lies beside the script stays at home, and nothing is said about it."""
    (kernel() / "helper.py").write_text("SECRET = 1\n")
    assert "successfully pushed" in silent(PUSH)
    assert "SECRET" not in str(kaggle.calls("SaveKernel"))


def test_the_status_and_the_output_of_a_failed_kernel_exit_with_0(
    tmp_path: Path, kaggle: KaggleServer, silent: Callable[..., str], kernel: Write
) -> None:
    """ERROR is printed with exit code 0, and half of the output arrives as if it were whole."""
    log = [{"stream_name": "stderr", "time": 1.0, "data": "CUDA error: out of memory\n"}]

    def fail(version: KernelVersion) -> tuple[str, list[dict[str, object]], dict[str, bytes]]:
        version.failure = "Your notebook was stopped"
        return "ERROR", log, {"submission.csv": b"name,target\n"}

    kaggle.run_kernel = fail
    silent(PUSH)
    assert "KernelWorkerStatus.ERROR" in silent("kernels status ada/xray-train")
    said = silent("kernels output ada/xray-train -p output")
    assert "error" not in said.lower()
    assert (tmp_path / "output/submission.csv").read_bytes() == b"name,target\n"


def test_the_version_of_a_kernel_is_ignored(
    tmp_path: Path, kaggle: KaggleServer, silent: Callable[..., str], kernel: Write
) -> None:
    """Asked for version 1, the client brings the output of the latest version without a word."""
    kaggle.run_kernel = lambda version: ("COMPLETE", "", {"version.txt": b"%d" % version.number})
    silent(PUSH)
    silent(PUSH)
    silent("kernels output ada/xray-train/1 -p output")
    assert (tmp_path / "output/version.txt").read_bytes() == b"2"


def test_an_error_of_storage_becomes_the_content_of_an_output_file(
    tmp_path: Path, kaggle: KaggleServer, silent: Callable[..., str], kernel: Write
) -> None:
    """The status of an output file's download is not looked at: the error page is the file."""
    kaggle.run_kernel = lambda _: ("COMPLETE", "", {"best.pt": b"weights"})
    silent(PUSH)
    kaggle.fault("GET blob", status=503, message="try again later")
    silent("kernels output ada/xray-train -p output")
    assert b"try again later" in (tmp_path / "output/best.pt").read_bytes()


def test_an_output_file_can_leave_the_output_folder(
    tmp_path: Path, kaggle: KaggleServer, silent: Callable[..., str], kernel: Write
) -> None:
    """The names of output files are joined to the folder as they are, ``..`` and all."""
    kaggle.run_kernel = lambda _: ("COMPLETE", "", {"../escaped.txt": b"out"})
    silent(PUSH)
    silent("kernels output ada/xray-train -p output")
    assert (tmp_path / "escaped.txt").read_bytes() == b"out"


# Data sets.


def test_a_refused_data_set_exits_with_0(
    kaggle: KaggleServer, silent: Callable[..., str], weights: Path
) -> None:
    """Creation errors, of a data set and of a version, are printed on stdout with exit code 0."""
    kaggle.datasets["ada/weights"] = Dataset([{"best.pt": b"old"}])
    assert "Dataset creation error" in silent("datasets create -p weights")
    kaggle.fault("CreateDatasetVersion", answer={"status": "Error", "error": "Quota exceeded"})
    assert "Dataset version creation error" in silent("datasets version -p weights -m new")
    assert kaggle.datasets["ada/weights"].versions == [{"best.pt": b"old"}]


def test_a_kernel_pushed_right_after_a_data_set_version_gets_the_old_version(
    kaggle: KaggleServer, silent: Callable[..., str], kernel: Write, weights: Path
) -> None:
    """The upload returns before the new version is there, and a kernel binds to the one before."""
    kernel(dataset_sources=["ada/weights"])
    kaggle.datasets["ada/weights"] = Dataset([{"best.pt": b"old"}])
    kaggle.ready_after, kaggle.listing_lag = 1, 1
    silent("datasets version -p weights -m new")
    silent(PUSH)
    assert silent("datasets status ada/weights") == "blobs_received"
    silent("datasets files ada/weights")
    silent(PUSH)
    versions = kaggle.kernels["ada/xray-train"].versions
    assert [version.datasets["ada/weights"] for version in versions] == [1, 2]


def test_a_data_set_version_is_made_twice_when_its_answer_is_lost(
    kaggle: KaggleServer, silent: Callable[..., str], weights: Path
) -> None:
    """The call is repeated without a look at whether the first one took effect."""
    kaggle.datasets["ada/weights"] = Dataset([{"best.pt": b"old"}])
    kaggle.fault("CreateDatasetVersion", lose_answer=True)
    silent("datasets version -p weights -m new")
    assert len(kaggle.datasets["ada/weights"].versions) == 3


def test_unzip_renames_paths_that_lead_outside(
    tmp_path: Path, kaggle: KaggleServer, silent: Callable[..., str]
) -> None:
    """``--unzip`` drops ``../`` and a leading ``/`` in silence; two files may become one."""
    files = {"../a.txt": b"1", "/b.txt": b"2", "a.txt": b"3"}
    kaggle.datasets["eve/files"] = Dataset([files])
    said = silent("datasets download eve/files -p data --unzip")
    assert "a.txt" not in said
    names = sorted(
        str(p.relative_to(tmp_path / "data")) for p in (tmp_path / "data").rglob("*.txt")
    )
    assert names == ["a.txt", "b.txt"]


# Downloads.


def test_a_corrupt_zip_of_the_right_size_is_never_replaced(
    kaggle: KaggleServer, silent: Callable[..., str], zip_path: Path
) -> None:
    """It is skipped as "more recently modified", for ever, and the exit code is 0."""
    silent(DOWNLOAD)
    zip_path.write_bytes(bytes(zip_path.stat().st_size))
    assert "Skipping, found more recently modified local copy" in silent(DOWNLOAD)
    assert set(zip_path.read_bytes()) == {0}
    assert len(kaggle.calls("GET blob")) == 2  # the second one is thrown away


def test_a_download_that_is_no_zip_is_kept(
    kaggle: KaggleServer, silent: Callable[..., str], zip_path: Path
) -> None:
    """Nothing is checked but the length: a web page saved as the zip is a success."""
    kaggle.fault("GET blob", raw=b"<html>busy</html>", headers={"Content-Type": "text/html"})
    silent(DOWNLOAD)
    assert zip_path.read_bytes() == b"<html>busy</html>"


def test_the_leaderboard_overwrites_the_data(
    kaggle: KaggleServer, silent: Callable[..., str], zip_path: Path
) -> None:
    """``leaderboard --download`` writes ``<slug>.zip`` too, over the competition's data."""
    silent(DOWNLOAD)
    assert b"train/" in zip_path.read_bytes()
    silent("competitions leaderboard xray-demo --download -p data")
    assert b"publicleaderboard" in zip_path.read_bytes()
    assert b"train/" not in zip_path.read_bytes()


def test_a_listing_ends_after_20_files(kaggle: KaggleServer, silent: Callable[..., str]) -> None:
    """There may be thousands; a line with a token is all that tells."""
    kaggle.competitions["xray-demo"] = {f"test/{n:02}.png": b"" for n in range(25)}
    said = silent(FILES)
    assert said.count(".png") == 20
    assert "Next Page Token = 20" in said


# Submissions.


def test_a_failed_upload_of_a_submission_exits_with_0(
    kaggle: KaggleServer, silent: Callable[..., str], submission: Path
) -> None:
    """Where storage refuses the file, nothing is submitted, and the exit code is 0."""
    kaggle.fault("PUT blob", status=403)
    assert silent(SUBMIT) == "Could not submit to competition"
    assert kaggle.submissions == []


def test_a_submission_whose_answer_is_lost_counts_all_the_same(
    kaggle: KaggleServer, kaggle_cli: Cli, submission: Path
) -> None:
    """The client fails, the submission exists, and whoever repeats it has spent two."""
    kaggle.fault("CreateSubmission", lose_answer=True)
    done = kaggle_cli(*SUBMIT.split())
    assert done.returncode == 1
    assert "Remote end closed connection without response" in done.stderr
    assert len(kaggle.submissions) == 1
    assert kaggle_cli(*SUBMIT.split()).returncode == 0
    assert [s.data for s in kaggle.submissions] == [submission.read_bytes()] * 2


def test_a_kernel_whose_push_is_not_answered_runs_all_the_same(
    kaggle: KaggleServer, kaggle_cli: Cli, kernel: Write
) -> None:
    """The client fails, and the version that it pushed uses up GPU hours unseen."""
    kaggle.fault("SaveKernel", lose_answer=True)
    assert kaggle_cli(*PUSH.split()).returncode == 1
    assert len(kaggle.kernels["ada/xray-train"].versions) == 1


# The connection.


@pytest.mark.parametrize("method", CALLS)
def test_too_many_requests_are_not_waited_out(
    kaggle: KaggleServer, kaggle_cli: Cli, kernel: Write, submission: Path, method: str
) -> None:
    """One 429 ends the command, though ``Retry-After`` says that a second would do."""
    kaggle.fault(method, status=429, message="Too many requests", headers={"Retry-After": "1"})
    done = kaggle_cli(*CALLS[method].split())
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "Too many requests")
    assert len(kaggle.calls(method)) == 1


@pytest.mark.parametrize("method", ["ListDataFiles", "DownloadDataFiles"])
def test_a_dropped_connection_is_not_tried_again(
    kaggle: KaggleServer, kaggle_cli: Cli, method: str
) -> None:
    """Even a call that changes nothing is made once, and its failure is in the library's words."""
    kaggle.fault(method, drop=True)
    done = kaggle_cli(*CALLS[method].split())
    assert done.returncode == 1
    assert "Max retries exceeded with url" in done.stderr
    assert len(kaggle.calls(method)) == 1


def test_a_server_that_does_not_answer_is_waited_for(
    kaggle: KaggleServer, kaggle_environment: dict[str, str]
) -> None:
    """A call has no time limit: the command hangs for as long as the server does."""
    kaggle.fault("ListDataFiles", delay=60)
    command = [sys.executable, "-m", "kaggle", *FILES.split()]
    with subprocess.Popen(command, env=kaggle_environment) as client:
        while not kaggle.calls("ListDataFiles"):
            assert client.poll() is None
            time.sleep(0.05)
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(3)
        client.kill()


# Credentials.


def test_a_stale_token_hides_a_good_key(kaggle: KaggleServer, kaggle_cli: Cli) -> None:
    """With an old KAGGLE_API_TOKEN the good key is not used; the message tells how to sign up."""
    done = kaggle_cli(*FILES.split(), env={"KAGGLE_API_TOKEN": "KGAT_stale"})
    assert done.returncode == 1
    assert done.stdout.startswith("Authentication required to call the Kaggle API.")
    assert "expired" not in done.stdout + done.stderr
    assert [call.method for call in kaggle.log][-1] == "ListDataFiles"
    assert kaggle.log[-1].headers["Authorization"] == "Bearer"


def test_a_token_that_is_refused_outright_is_a_traceback(
    kaggle: KaggleServer, kaggle_cli: Cli
) -> None:
    """Where the question about the token itself gets a 401, the client breaks off."""
    kaggle.fault("IntrospectToken", times=9, status=401, message="Unauthenticated")
    done = kaggle_cli(*FILES.split(), env={"KAGGLE_API_TOKEN": "KGAT_stale"})
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert kaggle.calls("ListDataFiles") == []


@pytest.fixture
def python(tmp_path: Path, kaggle_environment: dict[str, str]) -> Callable[..., str]:
    """Run Python without a key; return what it printed."""

    def run(program: str, **env: str) -> str:
        keyless = {k: v for k, v in kaggle_environment.items() if k != "KAGGLE_KEY"}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command,
            env={**keyless, **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done
        return done.stdout

    return run


def test_an_import_prints_and_calls(kaggle: KaggleServer, python: Callable[..., str]) -> None:
    """``import kaggle`` prints to stdout without credentials, and calls Kaggle with a token."""
    assert len(python("import kaggle").splitlines()) == 18
    assert kaggle.log == []
    python("import kaggle", KAGGLE_API_TOKEN="KGAT_stale")
    assert [call.method for call in kaggle.log] == ["IntrospectToken"]


def test_authenticate_ends_the_process(python: Callable[..., str]) -> None:
    """Without credentials ``authenticate`` raises no error that a caller would catch, but exits."""
    said = python(
        "from kaggle.api.kaggle_api_extended import KaggleApi\n"
        "try: KaggleApi().authenticate()\n"
        "except SystemExit as stop: print('exit', stop.code)\n"
    )
    assert said.endswith("exit 1\n")


def test_only_a_readable_kaggle_json_is_warned_about(
    tmp_path: Path, python: Callable[..., str]
) -> None:
    """An access token that everyone can read is used without a word."""
    folder = tmp_path / "home/.kaggle"
    folder.mkdir()
    (folder / "access_token").write_text(TOKEN)
    (folder / "access_token").chmod(0o644)
    assert python("import kaggle") == ""
    (folder / "kaggle.json").write_text('{"username": "ada", "key": "fake"}')
    (folder / "kaggle.json").chmod(0o644)
    assert "readable by other users" in python("import kaggle")


def test_name_and_key_may_come_from_two_accounts(
    tmp_path: Path, kaggle: KaggleServer, kaggle_cli: Cli
) -> None:
    """KAGGLE_USERNAME is paired with the key of kaggle.json, whoever that belongs to."""
    folder = tmp_path / "home/.kaggle"
    folder.mkdir()
    (folder / "kaggle.json").write_text(json.dumps({"username": USER, "key": KEY}))
    (folder / "kaggle.json").chmod(0o600)
    env = {"KAGGLE_USERNAME": "eve", "KAGGLE_KEY": None}
    done = kaggle_cli(*FILES.split(), env=env)
    assert (done.returncode, "eve" in done.stdout + done.stderr) == (1, False)
    assert kaggle_cli(*FILES.split(), env={**env, "KAGGLE_USERNAME": None}).returncode == 0


def test_a_token_in_the_config_folder_is_not_found(
    tmp_path: Path, kaggle: KaggleServer, python: Callable[..., str]
) -> None:
    """KAGGLE_CONFIG_DIR says where kaggle.json is; an access token beside it is ignored."""
    (tmp_path / "access_token").write_text(TOKEN)
    assert "Authentication required" in python("import kaggle", KAGGLE_CONFIG_DIR=str(tmp_path))
    assert kaggle.log == []
