"""The kernel command as a user types it."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from xraycomp.kernel import main

KERNELS = Path(__file__).parents[1] / "kernels"
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A folder ``kernels`` as in the repository, without anything built."""
    ignore = shutil.ignore_patterns("kernel.py", "__pycache__")
    return shutil.copytree(KERNELS, tmp_path / "kernels", ignore=ignore)


def test_build_says_what_it_wrote_and_how_to_send_it(kernels: Path, cli: Cli) -> None:
    done = cli("kernel", "build", "phantom-resnet18")
    assert done.returncode == 0, done.stderr
    wrote, then = done.stdout.splitlines()
    pattern = (
        r"Wrote kernels/phantom-resnet18/kernel\.py: [\d,]+ bytes, sha256 [0-9a-f]{64}, commit"
    )
    assert re.match(pattern, wrote)
    assert then.startswith("Before it can be sent, write your user name into its id")
    done = cli("kernel", "build", kernels / "phantom-resnet18", "--owner", "some-body")
    assert done.returncode == 0, done.stderr
    sent = f"(or kaggle kernels push -p {kernels}/phantom-resnet18)"
    assert done.stdout.splitlines()[-1].endswith(sent)
    assert (
        '"id": "some-body/phantom-resnet18"'
        in (kernels / "phantom-resnet18" / "kernel-metadata.json").read_text()
    )


def test_check_removes_what_is_stale_and_nothing_else(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kernels.parent)
    main(["build", "all"])
    main(["check", "all"])
    built = {path.parent.name for path in kernels.glob("*/kernel.py")}
    assert built == {path.name for path in kernels.iterdir()}
    with (kernels / "phantom-resnet18" / "train.py").open("a") as script:
        script.write("# changed\n")
    main(["check", "all"])
    left = {path.parent.name for path in kernels.glob("*/kernel.py")}
    assert left == built - {"phantom-resnet18"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["build", "phantom-resnet"], "Did you mean phantom-resnet18"),
        (["build", "nowhere/else"], "there: acse4-resnet18, nih-densenet121-gradcam"),
        (["buld", "all"], "Expected one of"),
        (["build"], "STR The kernel"),
        (["build", "all", "--owner", "a/b"], "'a/b' is no Kaggle user name"),
        (["rehearse", "phantom-resnet18", "--attach", "x"], "--attach x must be SOURCE=PATH"),
        (["rehearse", "phantom-resnet18", "--attach", "a/b=c=d"], "a/b is not among the sources"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, refused: Callable[..., str], arguments: list[str], sentence: str
) -> None:
    ignore = shutil.ignore_patterns("kernel.py", "__pycache__")
    shutil.copytree(KERNELS, tmp_path / "kernels", ignore=ignore)
    assert sentence in refused(main, *arguments)


def test_without_kernels_the_sentence_says_what_one_is(refused: Callable[..., str]) -> None:
    said = refused(main, "build", "all")
    assert "in kernels/ (there: none)" in said
    assert "A kernel is a folder with kernel-metadata.json and train.py" in said
