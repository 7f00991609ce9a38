"""Credentials: found in the client's own order, named without a secret, shadows told apart."""

import json
import os

import pytest
from kaggle_server import KEY, TOKEN, USER

from xraycomp.console.errors import UserError
from xraycomp.download import main
from xraycomp.remote.client import connect
from xraycomp.remote.credentials import find_credentials, winning_credential
from xraycomp.remote.doctor import examine
from xraycomp.remote.download import list_files

STALE = "KGAT_stale_token_that_was_revoked"
WRONG = "a-wrong-key-of-nobody"


@pytest.fixture
def place(signed_in, monkeypatch, tmp_path):
    """Put credentials where they are named; nothing else is there."""
    home = tmp_path / "home"
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)

    def put(**values):
        for name, value in values.items():
            if name.isupper():
                monkeypatch.setenv(name, value)
                continue
            path = home / ".kaggle" / name.replace("__", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(value if isinstance(value, str) else json.dumps(value))
            path.chmod(0o600)

    return put


def as_environment(kaggle_cli, *args):
    """The real client with this process's Kaggle variables."""
    names = ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR")
    return kaggle_cli(*args, env={name: os.environ.get(name) for name in names})


GOOD_JSON = {"username": USER, "key": KEY}
WRONG_JSON = {"username": USER, "key": WRONG}
CASES = {
    "token variable": ({"KAGGLE_API_TOKEN": TOKEN}, "KAGGLE_API_TOKEN"),
    "token file": ({"access_token": TOKEN}, "~/.kaggle/access_token"),
    "token file .txt": ({"access_token__txt": TOKEN}, "~/.kaggle/access_token.txt"),
    "kaggle.json": ({"kaggle__json": GOOD_JSON}, "kaggle.json"),
    "variables over kaggle.json": (
        {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY, "kaggle__json": WRONG_JSON},
        "KAGGLE_USERNAME and KAGGLE_KEY",
    ),
    "key by key": (
        {"KAGGLE_KEY": KEY, "kaggle__json": WRONG_JSON},
        "KAGGLE_KEY and",
    ),
    "wrong variables over a good kaggle.json": (
        {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": WRONG, "kaggle__json": GOOD_JSON},
        "KAGGLE_USERNAME and KAGGLE_KEY",
    ),
    "a stale token over a good key": (
        {"KAGGLE_API_TOKEN": STALE, "KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY},
        "KAGGLE_API_TOKEN",
    ),
    "a good token over a wrong key": (
        {"access_token": TOKEN, "kaggle__json": WRONG_JSON},
        "~/.kaggle/access_token",
    ),
    "an empty token file over a good key": (
        {"access_token": " \n", "kaggle__json": GOOD_JSON},
        "kaggle.json",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_credentials_win_as_with_the_real_client(place, kaggle_cli, case):
    values, source = CASES[case]
    place(**values)
    winner = winning_credential()
    assert winner is not None
    assert source in winner.source
    plain = as_environment(kaggle_cli, "competitions", "files", "-c", "xray-demo")
    try:
        with connect() as kaggle:
            list_files(kaggle, "xray-demo")
            assert kaggle.username == USER
        accepted = True
    except UserError as error:
        accepted = False
        assert "(401)" in str(error)
    assert accepted == (plain.returncode == 0), plain.stdout + plain.stderr


def test_a_token_variable_may_name_a_file(place, tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    place(KAGGLE_API_TOKEN=str(tmp_path / "token"))
    with connect() as kaggle:
        assert kaggle.username == USER


def test_a_token_that_is_no_longer_active_names_nobody(place, signed_in):
    place(access_token=TOKEN)
    signed_in.fault("IntrospectToken", answer={"active": False, "username": USER})
    with connect() as kaggle, pytest.raises(UserError, match=r"refused ~/.kaggle/access_token"):
        kaggle.username  # noqa: B018 - asks Kaggle


def test_the_config_folder_holds_for_kaggle_json_only(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kaggle.json").write_text(json.dumps(GOOD_JSON))
    place(KAGGLE_CONFIG_DIR=str(tmp_path / "elsewhere"), kaggle__json=WRONG_JSON)
    winner = winning_credential()
    assert winner is not None
    assert "elsewhere" in winner.source
    assert winner.key == KEY


def test_a_stale_token_that_shadows_a_good_key_is_said_as_such(place, refused, match):
    place(KAGGLE_API_TOKEN=STALE, kaggle__json=GOOD_JSON)
    said = refused(main, "--competition", "xray-demo")
    match(r"Kaggle refused KAGGLE_API_TOKEN \(401\).*it shadows .*kaggle\.json", said)
    match(
        r"It shadows \S+kaggle\.json, which Kaggle accepts: remove or renew KAGGLE_API_TOKEN\.$",
        refused(main, "--doctor"),
    )


def test_the_doctor_names_every_source_and_the_winner(place, tmp_path, caplog):
    place(access_token=TOKEN, kaggle__json=GOOD_JSON, KAGGLE_USERNAME="bob")
    for path in (tmp_path / "home/.kaggle").iterdir():
        path.chmod(0o640)  # by the group, which is others enough
    with caplog.at_level("INFO", "xraycomp"):
        examine()
    lines = caplog.messages
    assert "1. ~/.kaggle/access_token: this one is used; can be read by others" in lines[1]
    assert "2. KAGGLE_USERNAME and" in lines[2]
    assert "not used, the one above wins; can be read by others" in lines[2]
    assert lines[-1] == (
        "Kaggle accepts ~/.kaggle/access_token: signed in as ada. "
        "28.5 GPU hours are left this week."
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "No Kaggle credentials. Looked for"),
        ({"kaggle__json": {"username": USER}}, "has no key"),
        ({"kaggle__json": "{not json"}, "is not readable JSON"),
        ({"KAGGLE_KEY": KEY}, "KAGGLE_KEY: is set without KAGGLE_USERNAME"),
        ({"access_token": ""}, "~/.kaggle/access_token: is empty"),
        ({"access_token": f"{TOKEN}\n{TOKEN}"}, "access_token: holds line breaks, spaces or"),
        ({"KAGGLE_API_TOKEN": f"{TOKEN}\n"}, "KAGGLE_API_TOKEN: holds line breaks, spaces or"),
        ({"KAGGLE_USERNAME": USER, "KAGGLE_KEY": "kéy…"}, "KAGGLE_KEY: holds line breaks, spaces"),
    ],
)
def test_the_doctor_says_what_cannot_be_used(place, caplog, values, said):
    place(**values)
    with caplog.at_level("INFO", "xraycomp"), pytest.raises(UserError) as error:
        examine()
    lines = [*caplog.messages, str(error.value)]
    assert any(said in line for line in lines), lines
    assert TOKEN not in "".join(lines)


def test_a_token_file_that_is_not_utf_8_is_named(place, tmp_path, refused, match):
    place(access_token="x")
    (tmp_path / "home/.kaggle/access_token").write_text(TOKEN, encoding="utf-16")
    said = refused(main, "--competition", "xray-demo")
    match("~/.kaggle/access_token cannot be read as text", said)


def test_the_doctor_prints_no_secret(signed_in, cli, environment, tmp_path):
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    (home / ".kaggle/kaggle.json").write_text(json.dumps({"username": USER, "key": WRONG}))
    (home / ".kaggle/access_token").write_text(STALE)
    environment |= signed_in.environment(home) | {"KAGGLE_API_TOKEN": STALE}
    done = cli("download", "--doctor")
    assert done.returncode != 0
    assert "1. KAGGLE_API_TOKEN: this one is used" in done.stdout
    for secret in (KEY, WRONG, STALE):
        assert secret not in done.stdout + done.stderr
        assert secret not in repr(find_credentials())


def test_every_secret_in_kaggles_own_words_is_blacked_out(place, signed_in, refused):
    place(access_token=TOKEN, kaggle__json=GOOD_JSON)  # the second of them does not count
    signed_in.fault("ListDataFiles", status=400, message=f"{TOKEN} is odd, and so is {KEY}")
    said = refused(main, "--competition", "xray-demo")
    assert said.endswith("(400): *** is odd, and so is ***.")
