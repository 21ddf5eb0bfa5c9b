"""docs/inputs.md names a test for each input: they exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "inputs.md"


def test_every_test_that_the_page_names_is_there() -> None:
    defined = {
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    files = {path.name for path in TESTS.rglob("test_*.py")}
    named = re.findall(r"`(?:[\w/]+/)?(test_\w+(?:\.py|…)?)", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 30
    for name in named:
        if name.endswith(".py"):
            assert name in files, name
        elif name.endswith("…"):
            assert any(one.startswith(name[:-1]) for one in defined), name
        else:
            assert name in defined, name


def test_every_row_names_a_test() -> None:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] != "input" and not cells[0].startswith("---"):
            assert len(cells) == 3 and all(cells), line
