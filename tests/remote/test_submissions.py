"""Sending, listing and waiting, against the stand-in for Kaggle over the real SDK."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kaggle_server import KEY, KernelVersion, Submission

from xraycomp.console.errors import UserError
from xraycomp.remote import sending, submissions
from xraycomp.remote.client import LostAnswer, connect
from xraycomp.remote.drafts import (
    Draft,
    KernelOutput,
    LocalFile,
    bears,
    marked_kernel,
    marks_a_file,
    without_mark,
)
from xraycomp.remote.submissions import (
    list_submissions,
    remaining,
    until_reset,
    wait_for_score,
)

SLUG = "xray-demo"


@pytest.fixture
def account(kaggle, tmp_path, monkeypatch):
    """A connection of this process to the stand-in."""
    for name in [name for name in os.environ if "KAGGLE" in name]:
        monkeypatch.delenv(name)
    for name, value in kaggle.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sending, "_LOOKS", (0.0, 0.1))
    with connect() as account:
        yield account


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "A.csv"
    path.write_text("name,target\ntest_0,0\ntest_1,1\ntest_2,2\n")
    return LocalFile(path)


def send(account, competition, content, message, before=None):
    """Send a draft after a look at the list; the ledger lies beside what the tests write."""
    draft = Draft(competition, message, content)
    before = list_submissions(account, competition) if before is None else before
    return sending.send(account, draft, Path("ledger.csv"), before)


def creations(kaggle):
    return kaggle.calls("CreateSubmission") + kaggle.calls("CreateCodeSubmission")


def earlier(kaggle, n):
    for ref in range(1, n + 1):
        kaggle.submissions.append(Submission(SLUG, ref, "x.csv", f"{ref}", b"x", (0.5, 0.25)))


def test_a_file_is_sent_once_and_scored(kaggle, account, file):
    kaggle.solutions[SLUG] = lambda data: (0.75, 0.5) if b"test_2,2" in data else "not right"
    kaggle.scoring_polls = 2
    ref = send(account, SLUG, file, "first try")
    [held] = kaggle.submissions
    assert (held.ref, held.file_name, held.data) == (ref, "A.csv", file.path.read_bytes())
    assert held.description == f"first try [{file.mark}]"
    sent = wait_for_score(account, ref, poll=0.05)
    assert (sent.status, sent.public_score, sent.private_score) == (
        "COMPLETE",
        "0.75000",
        "0.50000",
    )
    assert sent.size == file.path.stat().st_size
    assert len(kaggle.calls("GetSubmission")) == 3


def test_the_requests_are_those_of_the_plain_client(kaggle, kaggle_cli, account, file):
    message = Draft(SLUG, "same", file).description
    done = kaggle_cli("competitions", "submit", "-c", SLUG, "-f", file.path, "-m", message)
    assert done.returncode == 0, done.stderr
    send(account, SLUG, file, "same")
    for method in ("StartSubmissionUpload", "CreateSubmission"):
        theirs, ours = kaggle.calls(method)
        for request in (theirs, ours):
            request.pop("blobFileTokens", None)  # the number of the upload
        assert ours == theirs
    assert kaggle.submissions[0].data == kaggle.submissions[1].data


def test_all_pages_are_listed_newest_first(kaggle, account):
    earlier(kaggle, 120)
    listed = list_submissions(account, SLUG)
    assert [sent.ref for sent in listed] == list(range(120, 0, -1))
    assert listed[0].time.endswith("Z") and listed[0].public_score == "0.50000"
    assert len(kaggle.calls("ListSubmissions")) == 2


def test_a_listing_that_never_ends_is_left(kaggle, account):
    page = {"submissions": [{"ref": 1, "status": "PENDING"}], "nextPageToken": "again"}
    kaggle.fault("ListSubmissions", times=5, answer=page)
    assert [sent.ref for sent in list_submissions(account, SLUG)] == [1]


def test_the_allowance_is_asked(kaggle, account):
    assert remaining(account, SLUG).spent is False
    earlier(kaggle, 5)
    spent = remaining(account, SLUG)
    assert (spent.left, spent.today, spent.spent) == (0, 5, True)


def test_a_team_that_never_submitted_is_not_held_back(kaggle, account):
    # What Kaggle answers where the account is in no team yet: zeros throughout.
    kaggle.fault("GetSubmissionLimits", answer={})
    assert remaining(account, SLUG).spent is False


@pytest.mark.parametrize(
    ("now", "said"),
    [((18, 48, 0), "in 5 h 12 min"), ((23, 59, 30), "in 0 h 1 min"), ((0, 0, 0), "in 24 h 0 min")],
)
def test_the_day_ends_at_midnight_utc(now, said):
    assert until_reset(datetime(2026, 11, 21, *now, tzinfo=UTC)) == f"at 00:00 UTC, {said}"


def test_an_answer_lost_after_the_effect_is_recognised(kaggle, account, file):
    send(account, SLUG, file, "A")  # the same mark, but not the one that is looked for
    kaggle.fault("CreateSubmission", lose_answer=True)
    ref = send(account, SLUG, file, "A")
    assert ref == kaggle.submissions[1].ref
    assert len(kaggle.submissions) == 2 == len(creations(kaggle))


@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 503}, {"raw": b"<html>"}])
def test_an_answer_lost_before_the_effect_says_that_nothing_was_sent(
    kaggle, account, file, fault, match
):
    kaggle.fault("CreateSubmission", **fault)
    with pytest.raises(LostAnswer) as error:
        send(account, SLUG, file, "A")
    match(r"A\.csv is not among the submissions.*not sent\. Run the same command", str(error.value))
    assert kaggle.submissions == [] and len(creations(kaggle)) == 1


def test_neither_an_earlier_nor_another_submission_is_taken_for_the_one_that_was_lost(
    kaggle, account, file
):
    send(account, SLUG, file, "A")
    before = list_submissions(account, SLUG)
    other = Submission(SLUG, 7, "B.csv", "B [0123456789ab]", b"x", (0.5, 0.5))  # by a team mate
    kaggle.submissions.append(other)
    kaggle.fault("CreateSubmission", drop=True)
    with pytest.raises(LostAnswer, match="it was not sent"):
        send(account, SLUG, file, "A", before)


def test_where_the_list_fails_too_it_is_left_open(kaggle, account, file, match):
    kaggle.fault("CreateSubmission", lose_answer=True)
    with pytest.raises(LostAnswer) as error:
        before = list_submissions(account, SLUG)
        kaggle.fault("ListSubmissions", times=5, status=403)
        send(account, SLUG, file, "A", before)
    match(f"not known whether .*A.csv arrived.*--sync --competition {SLUG}", str(error.value))
    assert len(creations(kaggle)) == 1


def test_an_answer_without_a_number_is_looked_up(kaggle, account, file, match):
    kaggle.fault("CreateSubmission", answer={"message": "Successfully submitted"})
    with pytest.raises(LostAnswer) as error:
        send(account, SLUG, file, "A")
    match("holds no number", str(error.value))


def test_limits_on_calls_are_waited_for_on_listing_and_never_on_sending(
    kaggle, account, file, match
):
    kaggle.fault("ListSubmissions", status=429, headers={"Retry-After": "1"})
    kaggle.fault("CreateSubmission", status=429, headers={"Retry-After": "1"})
    with pytest.raises(UserError) as error:
        send(account, SLUG, file, "A")
    match(r"429.*Try again in 1 s", str(error.value))
    assert len(kaggle.calls("ListSubmissions")) == 2
    assert len(creations(kaggle)) == 1 and kaggle.submissions == []


def test_a_broken_upload_is_done_again(kaggle, account, file):
    kaggle.fault("PUT blob", drop=True)
    send(account, SLUG, file, "A")
    assert kaggle.submissions[0].data == file.path.read_bytes()


def test_the_daily_limit_is_kaggles_to_refuse(kaggle, account, file, match):
    earlier(kaggle, 5)
    with pytest.raises(UserError) as error:
        send(account, SLUG, file, "A")
    match("400.*daily Submission allowance", str(error.value))


def test_a_kernels_version_is_submitted_once(kaggle, account, match):
    kaggle.code_competitions.add(SLUG)
    output = {"submission.csv": b"name,target\n"}
    version = KernelVersion(1, "", {}, {}, ["COMPLETE"], files=output)
    kaggle.kernels["ada/demo"] = type("Kernel", (), {"versions": [version]})()
    kaggle.fault("CreateCodeSubmission", lose_answer=True)
    ref = send(account, SLUG, KernelOutput("ada/demo", 1, "submission.csv"), "it")
    [held] = kaggle.submissions
    assert (held.ref, held.description) == (ref, "it [ada/demo/1/submission.csv]")
    assert creations(kaggle) == [
        {
            "competitionName": SLUG,
            "kernelOwner": "ada",
            "kernelSlug": "demo",
            "kernelVersion": 1,
            "fileName": "submission.csv",
            "submissionDescription": "it [ada/demo/1/submission.csv]",
        }
    ]
    for kernel, file, said in (
        ("ada/none", "submission.csv", "no kernel ada/none"),
        ("ada/demo", "other.csv", "no output file other.csv"),
    ):
        with pytest.raises(UserError) as error:
            send(account, SLUG, KernelOutput(kernel, 1, file), "it")
        match(said, str(error.value))


def test_waiting_survives_network_failures(kaggle, account, file, monkeypatch):
    ref = send(account, SLUG, file, "A")
    kaggle.scoring_polls = 0
    monkeypatch.setattr("xraycomp.remote.client.FIRST_WAIT", 0.01)
    kaggle.fault("GetSubmission", times=7, drop=True)
    kaggle.fault("GetSubmission", status=404)
    assert wait_for_score(account, ref, 0.05).status == "COMPLETE"


def test_waiting_ends_where_kaggle_does_not_know_it(kaggle, account, file, monkeypatch):
    ref = send(account, SLUG, file, "A")
    monkeypatch.setattr(submissions, "_UNKNOWN", 0.2)
    kaggle.fault("GetSubmission", times=50, status=404)
    with pytest.raises(UserError):
        wait_for_score(account, ref, 0.05)
    assert len(kaggle.calls("GetSubmission")) > 2


def test_waiting_ends_where_kaggle_forbids(kaggle, account):
    kaggle.fault("GetSubmission", status=403)
    with pytest.raises(UserError):
        wait_for_score(account, 1, 0.05)
    assert len(kaggle.calls("GetSubmission")) == 1


def test_a_mark_comes_off_again_and_hides_secrets(account, file):
    def described(message, content=file):
        return Draft(SLUG, message, content).description

    assert without_mark(described("two\nlines")) == "two lines"
    assert without_mark("by hand [draft two]") == "by hand [draft two]"
    quoted = f"{described('as')} once more"
    assert without_mark(quoted) == quoted and not marks_a_file(quoted)
    assert bears(described("two"), file.mark)
    assert not bears(described("two").replace("]", "0]"), file.mark)
    kernel = described("k", KernelOutput("ada/demo", 3, "out.csv"))
    assert (without_mark(kernel), marked_kernel(kernel)) == ("k", "ada/demo/3")
    assert KEY not in described(f"key {KEY}")
