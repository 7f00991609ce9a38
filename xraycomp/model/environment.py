"""What a run depends on besides its settings: versions, commit, hardware."""

import platform
import sys
from typing import Any

import numpy as np
import pandas as pd
import torch
import torchvision

import xraycomp
from xraycomp.data.commit import source_commit


def describe_environment() -> dict[str, Any]:
    """The content of ``environment.json``."""
    return {
        "xraycomp": xraycomp.__version__,
        "commit": source_commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
