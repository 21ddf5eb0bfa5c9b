"""A downstream project for pytester: two toy models, a toy backend, and no PyTorch at all.

The toy workbench is the real one with its ends replaced: what it "exports" is a text file, what
PyTorch and the backend "find" are fixed detections. So memoising, locking, parametrizing and
reporting are the real thing, and a run takes a fraction of a second.
"""

CONFTEST = """
import os
from pathlib import Path

import numpy as np
import pytest

from pytest_onnxdet.backends.base import Backend, Session
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.run.bench import Workbench


class ToySession(Session):
    @property
    def device(self):
        return "toy-chip"

    def _run(self, feeds):
        return {}


class Toy(Backend):
    name = "toy"

    def missing(self):
        return None

    def prepare(self, artifact, threads=None):
        return ToySession(artifact)


class Absent(Toy):
    name = "absent"

    def missing(self):
        return "absentrt is not installed: pip install absentrt"


def pytest_onnxdet_models(registry):
    for name in ("one_net", "two_net"):
        registry.register(ModelSpec(name=name, config="none.py", profile="toy"))


def pytest_onnxdet_backends(registry):
    registry.register(Toy())
    registry.register(Absent())


def detections(shift=0.0):
    boxes = np.array([[1, 2, 30, 40]], np.float32) + np.float32(shift)
    return [Detections(boxes, np.array([0.9], np.float32), np.array([0], np.int64))]


class ToyBench(Workbench):
    def detector(self, spec):
        return spec

    def static_size(self, spec):
        return 32, 32

    def _export(self, case, options):
        def build(path):
            path.write_text("a graph")
            with open(os.environ["TOY_LOG"], "a") as log:
                log.write(f"{case.spec.name} {options.shape}\\n")
            return {"inputs": ["input", "image_shape"], "static_shape": None}

        return self.store.get({"model": case.spec.name, "options": str(options)}, build)

    def results(self, case):
        return detections()

    def candidates(self, case):
        return detections()


@pytest.fixture(scope="session")
def onnxdet_workbench(request):
    from pytest_onnxdet.pytest_layer.stash import SUITE

    suite = request.config.stash[SUITE]
    with ToyBench(suite.settings, suite.datasets) as bench:
        yield bench
"""

TESTS = """
import numpy as np
import pytest


@pytest.mark.export
def test_export(onnxdet_artifact, onnxdet_record):
    onnxdet_record(bytes=onnxdet_artifact.path.stat().st_size)


@pytest.mark.parity
def test_parity(onnxdet_session, onnxdet_reference, onnxdet_found, onnxdet_record):
    pairs = zip(onnxdet_reference, onnxdet_found, strict=True)
    worst = max(np.abs(a.boxes - b.boxes).max() for a, b in pairs)
    onnxdet_record({"max_box_px": worst}, detections=np.int64(1))
"""

INI = """
[pytest]
addopts = --strict-markers
onnxdet_profile = toy
onnxdet_cache = cache
onnxdet_batch = 1, 2
"""
