"""Downloads: whole or not at all, going on where they broke off, and never trusted unchecked."""

import os
import subprocess
import sys
import zipfile

import pytest
from kaggle_server import KEY, Dataset

from xraycomp import train
from xraycomp.console.errors import UserError
from xraycomp.download import DownloadConfig, download, main
from xraycomp.remote import client
from xraycomp.remote.failures import Subject
from xraycomp.remote.transfer import download_file

SLUG = "xray-demo"


@pytest.fixture
def fetch(signed_in, tmp_path):
    """Download ``xray-demo``; returns the path of the zip."""

    def run(**fields):
        given = {"competition": SLUG, "data_dir": tmp_path / "data"} | fields
        return download(DownloadConfig(**given))

    return run


def contents(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_competition_comes_whole(fetch, signed_in, tmp_path):
    path = fetch()
    assert path == tmp_path / "data/xray-demo.zip"
    assert contents(path) == signed_in.competitions[SLUG]
    assert [file.name for file in path.parent.iterdir()] == ["xray-demo.zip"]


def test_a_data_set_comes_whole(signed_in, tmp_path):
    signed_in.datasets["ada/films"] = Dataset([{"a.png": b"1" * 5000, "b/c.png": b"2"}])
    path = download(DownloadConfig(dataset="ada/films", data_dir=tmp_path))
    assert path == tmp_path / "films.zip"
    assert contents(path) == {"a.png": b"1" * 5000, "b/c.png": b"2"}


def test_every_page_of_the_list_is_asked(fetch, signed_in):
    signed_in.competitions[SLUG] |= {f"more/{n}.txt": b"%d" % n for n in range(450)}
    assert len(contents(fetch())) == len(signed_in.competitions[SLUG])
    assert len(signed_in.calls("ListDataFiles")) == 3


def test_a_whole_zip_is_not_downloaded_again(fetch, signed_in):
    fetch()
    fetch()
    assert len(signed_in.calls("DownloadDataFiles")) == 1


def test_a_corrupt_zip_of_the_right_size_is_downloaded_again(fetch, signed_in, caplog):
    path = fetch()
    good = path.read_bytes()
    spoilt = bytearray(good)
    spoilt[len(good) // 3] ^= 0xFF
    path.write_bytes(spoilt)
    os.utime(path)  # newer than Kaggle's, which makes the plain client skip it for ever
    caplog.set_level("INFO", "xraycomp")
    fetch()
    assert path.read_bytes() == good
    assert "is here but is not a whole zip file" in caplog.text


def test_a_zip_without_a_listed_file_is_downloaded_again(fetch, signed_in):
    path = fetch()
    signed_in.competitions[SLUG]["late.txt"] = b"added by the host"
    fetch()
    assert contents(path)["late.txt"] == b"added by the host"


def test_a_broken_download_goes_on_where_it_stopped(fetch, signed_in):
    signed_in.competitions[SLUG]["large.bin"] = os.urandom(900_000)
    # Oftener than without progress: what brings something is no failure. The SDK opens the file
    # once to follow the redirect, so that an attempt takes two faults.
    signed_in.fault("GET blob", truncate=100_000, times=2 * (client.ATTEMPTS + 1))
    assert contents(fetch()) == signed_in.competitions[SLUG]
    ranges = [call.headers.get("Range") for call in signed_in.log if call.method == "GET blob"]
    assert any(asked and asked != "bytes=0-" for asked in ranges)


def test_a_later_command_goes_on_too(fetch, signed_in, tmp_path, monkeypatch):
    signed_in.competitions[SLUG]["large.bin"] = os.urandom(300_000)
    monkeypatch.setattr("xraycomp.remote.transfer.ATTEMPTS", 1)
    # The SDK opens the file once to follow the redirect: the first fault is for that.
    signed_in.fault("GET blob", truncate=100_000, times=2)
    said = r"could not be reached to download .*xray-demo \(the connection failed or broke off\)\."
    with pytest.raises(UserError, match=said):
        fetch()
    part = tmp_path / "data/xray-demo.zip.part"
    came = part.stat().st_size
    assert 0 < came <= 100_000
    assert not (tmp_path / "data/xray-demo.zip").exists()
    assert contents(fetch()) == signed_in.competitions[SLUG]
    asked = [call.headers.get("Range") for call in signed_in.log if call.method == "GET blob"]
    assert f"bytes={came}-" in asked
    assert not part.exists()


def test_bytes_of_another_version_are_not_gone_on_with(fetch, signed_in, tmp_path, monkeypatch):
    signed_in.competitions[SLUG]["large.bin"] = os.urandom(300_000)
    monkeypatch.setattr("xraycomp.remote.transfer.ATTEMPTS", 1)
    signed_in.fault("GET blob", truncate=100_000, times=2)
    with pytest.raises(UserError):
        fetch()
    signed_in.competitions[SLUG]["large.bin"] = os.urandom(300_000)
    assert contents(fetch()) == signed_in.competitions[SLUG]


def test_storage_that_is_busy_while_resuming_costs_no_bytes(signed_in, tmp_path):
    data = os.urandom(200_000)
    signed_in.fault("GET blob", truncate=120_000)
    signed_in.fault("GET blob", status=503)
    path = tmp_path / "file.bin"
    download_file(lambda: signed_in.store("file.bin", data), path, Subject("download a file"))
    assert path.read_bytes() == data
    asked = [call.headers.get("Range") for call in signed_in.log if call.method == "GET blob"]
    assert asked == [None, asked[1], asked[1]]
    assert asked[1] != "bytes=0-"


@pytest.mark.parametrize("shift", [0, 1])
def test_a_piece_that_is_too_short_or_of_another_place_is_mended_by_a_fresh_link(
    signed_in, tmp_path, shift
):
    data, path, links = os.urandom(200_000), tmp_path / "file.bin", []

    def open_url():
        if len(links) == 1:
            start = path.with_name("file.bin.part").stat().st_size + shift
            span = {"Content-Range": f"bytes {start}-{start + 9}/{len(data)}"}
            piece = data[start : start + 10]
            signed_in.fault("GET blob", status=206, raw=piece, headers=span)
        signed_in.blobs.clear()  # the link before expires
        links.append(signed_in.store(f"{len(links)}.bin", data))
        return links[-1]

    signed_in.fault("GET blob", truncate=120_000)
    download_file(open_url, path, Subject("download a file"))
    assert path.read_bytes() == data
    assert len(links) == 3


def test_what_fails_the_check_is_rejected_and_kept(fetch, signed_in, tmp_path):
    signed_in.competitions[SLUG]["late.txt"] = b"x"
    rows = [{"name": name, "totalBytes": 1} for name in signed_in.competitions[SLUG]]
    signed_in.fault("ListDataFiles", answer={"files": rows})
    with pytest.raises(UserError, match="holds files of another size than listed") as caught:
        fetch()
    assert "zip.rejected" in str(caught.value)
    assert not (tmp_path / "data/xray-demo.zip").exists()
    assert (tmp_path / "data/xray-demo.zip.rejected").is_file()


@pytest.mark.parametrize(
    ("fault", "times", "said"),
    [
        ({"status": 403}, 1, r"\(403\): either its rules are not accepted yet, or the name "
         r"xray-demo "
         r"is misspelt, or the account is not verified by phone. See "
         r"https://www.kaggle.com/c/xray-demo/rules"),
        ({"status": 429, "headers": {"Retry-After": "3600"}}, 1, r"\(429\).* again in 60 minutes"),
        ({"status": 429}, 9, r"Kaggle limits how often it may be asked \(429\)"),
        ({"status": 502}, 9, r"Kaggle is in trouble \(502\) and could not list the files"),
        ({"drop": True}, 9, r"could not be reached to list the files of the competition xray-demo"),
        ({"raw": b"<html>a hotel's login page</html>"}, 9, r"the answer is not Kaggle's"),
    ],
)  # fmt: skip
def test_failures_are_one_sentence(signed_in, refused, match, fault, times, said):
    signed_in.fault("ListDataFiles", times=times, **fault)
    match(said, refused(main, "--competition", SLUG))


def test_a_misspelt_competition_names_the_nearest(signed_in, refused):
    said = refused(main, "--competition", "xray-dmeo")
    assert said == (
        "Kaggle knows no competition xray-dmeo (404), so it could not list the files of the "
        "competition xray-dmeo. Did you mean xray-demo?"
    )
    assert "Did you mean acse4-ml-2020?" in refused(main, "--competition", "acse-ml-2020")


def test_a_short_retry_after_is_honoured(fetch, signed_in):
    signed_in.fault("ListDataFiles", status=429, headers={"Retry-After": "1"})
    began = os.times().elapsed
    fetch()
    assert os.times().elapsed - began >= 1


def test_a_server_that_is_silent_does_not_hang_the_command(signed_in, refused, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUT", (1.0, 0.2))
    signed_in.fault("ListDataFiles", delay=1.0, times=9)
    assert "(timed out)" in refused(main, "--competition", SLUG)


def test_without_credentials_the_way_to_a_token_is_said(signed_in, refused, match, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    said = refused(main, "--competition", SLUG)
    match(
        "No Kaggle credentials were found. KAGGLE_USERNAME is set without KAGGLE_KEY. Make a token "
        "at https://www.kaggle.com/settings/api",
        said,
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "Say what to download"),
        (["--competition", "a", "--dataset", "b/c"], "Say what to download"),
        (["--competition", "owner/slug"], "is no competition's slug"),
        (["--dataset", "slug"], "must be OWNER/SLUG"),
    ],
)
def test_wrong_flags_are_one_sentence(refused, match, flags, said):
    match(said, refused(main, *flags))


def test_ctrl_c_leaves_a_part_to_go_on_with(signed_in, environment, tmp_path):
    signed_in.competitions[SLUG]["large.bin"] = os.urandom(3_000_000)
    signed_in.fault("GET blob", truncate=2_000_000)
    signed_in.fault("GET blob", truncate=2_000_000)
    signed_in.fault("DownloadDataFiles", delay=0.0)
    signed_in.fault("DownloadDataFiles", delay=30.0)
    process = subprocess.Popen(
        [sys.executable, "-m", "xraycomp.download", "--competition", SLUG],
        cwd=tmp_path,
        env={**environment, **signed_in.environment(tmp_path / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        part = tmp_path / "data/xray-demo.zip.part"
        for line in process.stdout:
            if "Going on with the download" in line:
                break
        process.send_signal(2)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Interrupted."
    assert part.stat().st_size > 0
    assert not part.with_suffix("").exists()
    assert KEY not in said


def test_training_on_a_competition_downloads_what_is_missing(
    signed_in, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.toml").write_text(
        'slug = "xray-demo"\nsource = "competition"\ntask = "multiclass"\n'
        'classes = ["covid", "pneumonia", "normal"]\nmetric = "macro_f1"\n'
        '[train]\nimages = "train"\nlabels = "folders"\n[test]\nimages = "test"\n'
        '[submission]\nsample = "sample_submission.csv"\n'
        '[submission.columns]\nname = "id"\ntarget = "label_index"\n'
    )
    flags = "--competition demo.toml --arch mobilenet_v3_small --image-size 32 --epochs 1 "
    flags += "--batch-size 4 --val-fraction 0.3 --name one"
    with caplog.at_level("INFO", "xraycomp"):
        train.main(flags.split())
    assert "every file and checksum in order" in caplog.text
    said = capsys.readouterr()
    for bar in ("Download", "Check"):  # in a file or a pipe they would be many lines
        assert f"{bar} xray-demo.zip" not in said.err
    assert (tmp_path / "runs/one/submission.csv").is_file()
    assert KEY not in said.out + said.err + caplog.text
