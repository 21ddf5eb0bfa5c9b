"""The public names: all there, loaded late, and no others."""

import subprocess
import sys

import numpy as np
import pytest

import pytest_onnxdet
from pytest_onnxdet import Detections, Tolerance, assert_detections_close

SCORES = np.array([0.9, 0.8], dtype=np.float32)
BOXES = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], dtype=np.float32)
LABELS = np.array([0, 1])


def test_every_public_name_is_there_and_listed() -> None:
    for name in pytest_onnxdet.__all__:
        assert getattr(pytest_onnxdet, name).__name__ == name
    assert set(pytest_onnxdet.__all__) <= set(dir(pytest_onnxdet))
    with pytest.raises(AttributeError, match="no attribute 'Detection'"):
        pytest_onnxdet.Detection  # noqa: B018


def test_importing_the_package_imports_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import pytest_onnxdet; "
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pytest_onnxdet']"


def test_close_detections_pass_and_others_are_told_in_full() -> None:
    candidate = Detections(BOXES, SCORES, LABELS)
    assert_detections_close(candidate, candidate)
    assert_detections_close([candidate, candidate], [candidate, candidate], tolerance=Tolerance())
    moved = Detections(BOXES + np.float32(0.5), SCORES, LABELS)
    with pytest.raises(AssertionError, match="2 of 2 reference detections differ") as caught:
        assert_detections_close(candidate, moved)
    assert "box_shift: 2" in str(caught.value)
    assert_detections_close(candidate, moved, tolerance=Tolerance(box_px=1.0))


def test_nothing_to_compare_is_not_close() -> None:
    nothing = Detections(BOXES[:0], SCORES[:0], LABELS[:0])
    with pytest.raises(AssertionError, match="compared no detection"):
        assert_detections_close(nothing, nothing)
    with pytest.raises(AssertionError, match="has 0 image"):
        assert_detections_close([nothing], [])
