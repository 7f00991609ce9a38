"""Whether this machine has Kaggle credentials, without importing the client or reading a secret."""

import os
from pathlib import Path


def credential_sources() -> list[str]:
    """The credential sources that are present, in the order in which the Kaggle client asks them.

    Only names are returned, never a value.
    """
    home = Path.home() / ".kaggle"
    config = Path(os.environ.get("KAGGLE_CONFIG_DIR", home)) / "kaggle.json"
    present = {
        "KAGGLE_API_TOKEN": bool(os.environ.get("KAGGLE_API_TOKEN")),
        "~/.kaggle/access_token": (home / "access_token").is_file(),
        "KAGGLE_USERNAME and KAGGLE_KEY": all(
            os.environ.get(name) for name in ("KAGGLE_USERNAME", "KAGGLE_KEY")
        ),
        "kaggle.json": config.is_file(),
    }
    return [name for name, there in present.items() if there]
