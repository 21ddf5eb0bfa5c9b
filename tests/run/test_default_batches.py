"""Why the default run has a batch of three."""

from typing import Any

import numpy as np
import pytest

from pytest_onnxdet.core.vocabulary import DEFAULT_BATCHES, SHAPES, fixed_markers
from pytest_onnxdet.data.batches import Batch, Batches, Sample, alone
from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.run.cases import Settings, make_cases
from pytest_onnxdet.verify.judge import Sides, judge


class Images:
    """Seven images, each of a grey level of its own."""

    def __len__(self) -> int:
        return 7

    def sample(self, index: int) -> Sample:
        shape = (16, 16, 3)
        meta = {"img_shape": shape, "ori_shape": shape, "scale_factor": np.ones(4, np.float32)}
        return Sample(np.full((3, 16, 16), index / 10, np.float32), meta)


def good(batch: Batch) -> dict[str, Any]:
    """A detector whose box is where the image's grey level says."""
    level = batch.images[:, 0, 0, 0]
    dets = np.zeros((len(level), 1, 5), np.float32)
    dets[:, 0] = np.stack([level, level, level + 8, level + 8, 0.9 - level / 10], axis=1)
    return {"dets": dets, "labels": np.zeros((len(level), 1), np.int64)}


def repeating(batch: Batch) -> dict[str, Any]:
    """``Gather(Min(range, 1))`` on the outputs: from the third row on the second is repeated."""
    rows = np.minimum(np.arange(len(batch.images)), 1)
    return {name: value[rows] for name, value in good(batch).items()}


def verdict(size: int) -> bool:
    """Whether parity holds of the faulty graph at a batch size, its single images included."""
    batches = list(Batches(Images(), size))

    def results_of(run: Any, parts: Any) -> list[Detections]:
        return [one for part in parts for one in from_outputs(run(part), part)]

    sides = Sides(
        results_of(good, batches),
        results_of(repeating, batches),
        classes=("thing",),
        singles=results_of(repeating, [one for batch in batches for one in alone(batch)]),
    )
    return judge(sides, Tolerance()).ok


def test_rows_repeated_from_the_third_on_are_caught_by_the_default_run() -> None:
    assert all(verdict(size) for size in (1, 2))  # what it was before, and what it let pass
    assert not all(verdict(size) for size in DEFAULT_BATCHES)


def test_the_default_run_is_288_checks(tmp_path: Any) -> None:
    from pytest_onnxdet.backends import builtin_backends

    backends = {"onnxruntime": builtin_backends()["onnxruntime"]}
    minis = builtin_registry().select((), "mini")
    cases = make_cases(Settings(cache=tmp_path), minis, backends)
    assert len(cases) == len(minis) * len(SHAPES) * len(DEFAULT_BATCHES) == 96
    assert len(cases) * len(("export", "parity", "accuracy")) == 288


@pytest.mark.parametrize("batch", DEFAULT_BATCHES)
def test_each_has_a_marker(batch: int) -> None:
    assert f"batch{batch}" in fixed_markers()
