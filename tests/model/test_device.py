"""The device: how many CPUs torch takes for itself."""

import subprocess
import sys

import pytest

COUNT = """
import torch
from xraycomp.model.device import choose_device
choose_device("cpu")
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(("asked", "threads"), [(None, "1"), ("2", "2")])
def test_torch_keeps_to_the_cpus_that_a_container_may_use_unless_told(environment, asked, threads):
    environment.pop("OMP_NUM_THREADS")
    environment["LOKY_MAX_CPU_COUNT"] = "1"  # stands for the quota of a container
    if asked:
        environment["OMP_NUM_THREADS"] = asked
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == threads
