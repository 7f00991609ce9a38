"""What is wrong with the Kaggle credentials of this machine, if anything."""

from xraycomp.console.errors import UserError
from xraycomp.remote.client import connect
from xraycomp.remote.credentials import Credential, find_credentials, kaggle_json_path
from xraycomp.remote.failures import Subject

_PLACES = (
    "KAGGLE_API_TOKEN",
    "~/.kaggle/access_token",
    "KAGGLE_USERNAME and KAGGLE_KEY",
    "kaggle.json",
    "~/.kaggle/credentials.json",
)


def examine() -> tuple[list[str], bool]:
    """Lines that name every source of credentials, which one wins and whether Kaggle takes it.

    Returns the lines and whether one can work with what is there. No line holds a secret.
    """
    found = find_credentials()
    if not found:
        places = ", ".join([*_PLACES[:3], str(kaggle_json_path()), _PLACES[4]])
        return [
            f"No Kaggle credentials. Looked for, in this order: {places}.",
            "Make a token at https://www.kaggle.com/settings/api and put it into "
            "~/.kaggle/access_token.",
        ], False
    lines = ["Kaggle credentials, in the order in which the Kaggle client asks for them:"]
    winner = next((credential for credential in found if credential.usable), None)
    for number, credential in enumerate(found, 1):
        lines.append(f"  {number}. {credential.source}: {_standing(credential, winner)}")
    if winner is None:
        return [
            *lines,
            "None of them can be used. Make a token at https://www.kaggle.com/settings/api and put "
            "it into ~/.kaggle/access_token.",
        ], False
    accepted, said = _try(winner)
    lines.append(said)
    if not accepted:
        behind = [item for item in found[found.index(winner) + 1 :] if item.usable]
        for credential in behind:
            if _try(credential)[0]:
                lines.append(
                    f"It shadows {credential.source}, which Kaggle accepts: remove or renew "
                    f"{winner.source}."
                )
    return lines, accepted


def _standing(credential: Credential, winner: Credential | None) -> str:
    if not credential.usable:
        return credential.problem
    standing = "this one is used" if credential is winner else "not used, the one above wins"
    return f"{standing}; {credential.problem}" if credential.problem else standing


def _try(credential: Credential) -> tuple[bool, str]:
    """Whether Kaggle accepts it, and a sentence about that."""
    subject = Subject("say how many GPU hours are left")
    try:
        with connect(credential) as kaggle:
            answer = kaggle.call(kaggle.kernels.get_accelerator_quota_statistics, subject)
            said = f"Kaggle accepts {credential.source}: signed in as {kaggle.username}."
            if gpu := answer.gpu_quota:
                left = gpu.total_time_allowed - gpu.time_used
                said += f" {left.total_seconds() / 3600:.1f} GPU hours are left this week."
            return True, said
    except UserError as error:
        return False, str(error)
