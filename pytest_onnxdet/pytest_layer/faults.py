"""The self-test's tests: one for each model and each place of each known fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_onnxdet.core.vocabulary import FULL
from pytest_onnxdet.run.cases import SELFTEST_PLACES

if TYPE_CHECKING:
    from pytest_onnxdet.backends import Backend
    from pytest_onnxdet.pytest_layer.stash import Suite


def parametrize(
    metafunc: pytest.Metafunc, suite: Suite, unrunnable: Callable[[Backend], str | None]
) -> None:
    """Runs a test once for each case that can run here, and for each fault.

    Its id is the model and the fault, ``retinanet-weight``; the case and the fault where a model
    has several cases; with ``@2`` for the second place of a fault.

    Args:
        metafunc: of a test that takes ``onnxdet_case`` and ``onnxdet_fault``.
        suite: the run's.
        unrunnable: says why a backend has no sessions here.
    """
    from pytest_onnxdet.verify.mutants import operators

    cases = [
        case
        for case in suite.cases
        if case.backend.name not in suite.missing and unrunnable(case.backend) is None
    ]
    several = Counter(case.spec.name for case in cases)
    params = []
    for case in cases:
        marks = [getattr(pytest.mark, name) for name in case.markers]
        if suite.settings.profile == FULL:
            marks.append(getattr(pytest.mark, FULL))
        name = case.spec.name if several[case.spec.name] == 1 else case.id
        params.append(pytest.param(case, id=name, marks=marks))
    count = SELFTEST_PLACES.get(suite.settings.selftest, 1)
    faults = [
        pytest.param(
            (operator, number, count), id=operator.name + (f"@{number + 1}" if number else "")
        )
        for operator in operators()
        for number in range(count)
    ]
    metafunc.parametrize("onnxdet_case", params, indirect=True, scope="session")
    metafunc.parametrize("onnxdet_fault", faults, scope="session")
