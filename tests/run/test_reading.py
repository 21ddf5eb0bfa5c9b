"""What the suite reads of a backend is held to the contract, in every batch of every case."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.run.cases import Case
from pytest_onnxdet.run.reading import read_outputs
from pytest_onnxdet.verify.checks import CheckFailed

DETECTOR = SimpleNamespace(cfg=SimpleNamespace(model={}))


class Session:
    device = "cpu"

    artifact = SimpleNamespace(info={})

    def __init__(self, ghost: float) -> None:
        self.ghost = ghost

    def run(self, batch: Batch) -> dict[str, Any]:
        dets = np.array([[[1, 1, 9, 9, 0.8], [self.ghost] * 5]], np.float32)
        return {"dets": dets, "labels": np.array([[0, -1]])}


def read(ghost: float) -> Any:
    backend: Any = SimpleNamespace(name="toy")
    case = Case(ModelSpec("net", "none.py", classes=("thing",)), backend, "static", 1)
    shape = (16, 16, 3)
    meta = {"img_shape": shape, "ori_shape": shape, "scale_factor": np.ones(4, np.float32)}
    batch = Batch(np.zeros((1, 3, 16, 16), np.float32), np.array([[16, 16]]), [meta])
    session: Any = Session(ghost)
    return read_outputs(case, session, DETECTOR, False, batch)


def test_a_ghost_in_an_empty_slot_fails_the_case() -> None:
    """Green before: slots without a label were never looked at."""
    (result,) = read(0.0)
    assert len(result) == 1
    with pytest.raises(CheckFailed, match=r"(?s)net-toy-static-b1.*an empty slot") as caught:
        read(0.9)
    assert caught.value.stage == "contract"
