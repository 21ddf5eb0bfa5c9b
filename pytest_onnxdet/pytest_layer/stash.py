"""What an enabled run keeps in pytest's stashes, and under which keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_onnxdet.data.datasets import DatasetRegistry
    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.run.cases import Case, Settings


@dataclass(frozen=True)
class Suite:
    """What an enabled run works with; in ``config.stash`` under ``SUITE``.

    Attributes:
        settings: the request.
        cases: every case, in order.
        missing: by backend name, why its cases are skipped.
        absent: by name, why a backend that nobody asked for has no cases.
        datasets: where data sets are looked up.
        families: how detectors are lowered.
    """

    settings: Settings
    cases: tuple[Case, ...]
    missing: dict[str, str]
    absent: dict[str, str]
    datasets: DatasetRegistry
    families: FamilyRegistry


#: In a config's stash.
SUITE: pytest.StashKey[Suite] = pytest.StashKey()
#: In a test's stash: the figures that it recorded.
METRICS: pytest.StashKey[dict[str, Any]] = pytest.StashKey()
