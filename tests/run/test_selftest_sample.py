"""Forty mutants of real detectors, the same ones every time: none may go unseen.

Four minis of four kinds, one batch of three images each, ten faults a model. The whole self-test is
``pytest --onnxdet --onnxdet-selftest``.
"""

from pathlib import Path

import pytest

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.run.selftest import SelfTest
from pytest_onnxdet.verify.mutants import operators
from pytest_onnxdet.verify.selftest import BELOW, NOWHERE, SURVIVED

MODELS = ("fcos", "yolov3", "ssd", "mask_rcnn")
EACH = 10


@pytest.mark.parametrize("place", range(len(MODELS)), ids=MODELS)
def test_a_fixed_sample_is_seen(place: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "selftest"
    spec = builtin_registry().get(MODELS[place])
    case = Case(spec, OnnxRuntimeBackend("cpu"), "dynamic", 3)
    settings = Settings(cache=folder, limit=3)
    results = []
    with Workbench(settings, builtin_datasets(), threads=1) as bench, SelfTest(bench, case) as test:
        test.require_good()
        # Every eleventh fault, beginning elsewhere for each model; the next where one has no place.
        for first in range(place * 3, place * 3 + EACH * 11, 11):
            for number in range(len(operators())):
                result = test.run(operators()[(first + number) % len(operators())])
                if result.outcome != NOWHERE:
                    break
            results.append(result)
    assert len({result.operator.name for result in results}) == EACH
    assert not [r for r in results if r.outcome in (SURVIVED, BELOW)], results
