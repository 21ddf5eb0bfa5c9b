"""What names a graph and a recording: also the code of the detector and of its pipeline."""

from typing import Any

import pytest

from pytest_onnxdet.export.identity import code_digest, identity
from pytest_onnxdet.export.options import ExportOptions
from pytest_onnxdet.models.build import build_detector
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

ensure_torchvision()  # mmdet imports it
from mmdet.datasets import PIPELINES  # noqa: E402
from mmdet.datasets.pipelines import Normalize  # noqa: E402


@pytest.fixture(scope="module")
def detector() -> Any:
    return build_detector(builtin_registry().get("retinanet", "mini"))


def test_an_edited_head_is_another_graph(detector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Green before: the old graph met the old reference."""
    spec, options = builtin_registry().get("retinanet", "mini"), ExportOptions(size=(96, 96))
    before = identity(spec, options, detector)
    assert before == identity(spec, options, detector)
    kind = type(detector.bbox_head)
    own = kind.forward_single

    def forward_single(self: Any, x: Any) -> Any:
        scores, boxes = own(self, x)
        return scores, boxes * 1.01

    monkeypatch.setattr(kind, "forward_single", forward_single)
    after = identity(spec, options, detector)
    assert {name for name in before if before[name] != after[name]} == {"code"}
    assert before["code"]["modules"] != after["code"]["modules"]


def test_an_edited_step_is_another_recording(
    detector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any(
        step["type"] == "Normalize" for step in detector.cfg.data.test.pipeline[1]["transforms"]
    )
    before = code_digest(detector)

    class Own(Normalize):
        def __call__(self, results: Any) -> Any:
            return super().__call__(results)

    monkeypatch.setitem(PIPELINES.module_dict, "Normalize", Own)
    after = code_digest(detector)
    assert before["pipeline"] != after["pipeline"] and before["modules"] == after["modules"]
