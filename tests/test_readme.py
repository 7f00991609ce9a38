"""The README's map names every file of the package, and none that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_map_is_of_the_files_that_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.partition("```\nxraycomp/\n")[2].partition("```")[0].splitlines()
    folder, named = "", []
    for line in lines:
        indent, name = re.match(r"( *)(\S+)", line).groups()
        if len(indent) == 2:
            folder = name if name.endswith("/") else ""
        if indent and not name.endswith("/"):
            named.append(folder + name if len(indent) == 4 else name)
    package = ROOT / "xraycomp"
    files = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]
    there = {name for name in files if not name.endswith("__init__.py")}
    assert sorted(named) == sorted(there | {"data/competitions/*.toml", "studies/spaces/*.toml"})
