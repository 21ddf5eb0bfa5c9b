"""What several files of plugin tests read from a run's output."""

import json
from pathlib import Path
from typing import Any

import pytest


def ids(result: pytest.RunResult) -> list[str]:
    """The test ids that ``--collect-only -q`` printed."""
    assert result.ret == pytest.ExitCode.OK, result.stdout.str() + result.stderr.str()
    return [line for line in result.outlines if "::" in line]


def cases(folder: Path) -> list[dict[str, Any]]:
    """The cases of a report.json."""
    report = json.loads((folder / "report.json").read_text())
    results: list[dict[str, Any]] = report["cases"]
    return results
