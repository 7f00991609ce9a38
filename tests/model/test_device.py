"""The device: the CPUs and the memory that torch takes for itself."""

import platform
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


FAULTS = """
import resource, torch
from xraycomp.model.device import choose_device
choose_device("cpu")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(30):
    if step == 20:  # where things lie in memory settles in the first
        before = faults()
    torch.empty(25_000_000).fill_(1)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not the GNU C library")
def test_memory_of_one_step_is_used_again_by_the_next(environment):
    """A hundred megabytes are 24,000 pages, which the system would have to clear each time."""
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10_000
