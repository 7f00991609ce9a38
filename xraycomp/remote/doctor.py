"""What is wrong with the Kaggle credentials of this machine, if anything."""

import logging

from xraycomp.console.errors import UserError
from xraycomp.remote.client import connect
from xraycomp.remote.credentials import Credential, find_credentials, kaggle_json_path
from xraycomp.remote.failures import Subject

log = logging.getLogger(__name__)

_MAKE = (
    "Make a token at https://www.kaggle.com/settings/api and put it into ~/.kaggle/access_token."
)


def examine() -> None:
    """Name every source of credentials, which one wins and whether Kaggle takes it.

    Raises ``UserError`` where one cannot work with what is there. No secret is shown.
    """
    found = find_credentials()
    if not found:
        raise UserError(
            "No Kaggle credentials. Looked for, in this order: KAGGLE_API_TOKEN, "
            f"~/.kaggle/access_token, KAGGLE_USERNAME and KAGGLE_KEY, {kaggle_json_path()}, "
            f"~/.kaggle/credentials.json. {_MAKE}"
        )
    log.info("Kaggle credentials, in the order in which the Kaggle client asks for them:")
    winner = next((credential for credential in found if credential.usable), None)
    for number, credential in enumerate(found, 1):
        log.info("  %d. %s: %s", number, credential.source, _standing(credential, winner))
    if winner is None:
        raise UserError(f"None of them can be used. {_MAKE}")
    try:
        log.info(_try(winner))
    except UserError as error:
        good = [item.source for item in found[found.index(winner) + 1 :] if _is_accepted(item)]
        if not good:
            raise
        raise UserError(
            f"{error} It shadows {good[0]}, which Kaggle accepts: remove or renew {winner.source}."
        ) from error


def _standing(credential: Credential, winner: Credential | None) -> str:
    if not credential.usable:
        return credential.problem
    standing = "this one is used" if credential is winner else "not used, the one above wins"
    return f"{standing}; {credential.problem}" if credential.problem else standing


def _is_accepted(credential: Credential) -> bool:
    try:
        return credential.usable and bool(_try(credential))
    except UserError:
        return False


def _try(credential: Credential) -> str:
    """A sentence about its account. Raises ``UserError`` where Kaggle does not accept it."""
    subject = Subject("say how many GPU hours are left")
    with connect(credential) as kaggle:
        answer = kaggle.call(kaggle.kernels.get_accelerator_quota_statistics, subject)
        said = f"Kaggle accepts {credential.source}: signed in as {kaggle.username}."
    if gpu := answer.gpu_quota:
        left = gpu.total_time_allowed - gpu.time_used
        said += f" {left.total_seconds() / 3600:.1f} GPU hours are left this week."
    return said
