"""The reference in float64: the same detector, and nothing of it left behind."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mmdet")

from pytest_onnxdet.data.batches import Batch, Batches  # noqa: E402
from pytest_onnxdet.data.datasets import builtin_datasets  # noqa: E402
from pytest_onnxdet.models.registry import builtin_registry  # noqa: E402
from pytest_onnxdet.models.spec import Tolerance  # noqa: E402
from pytest_onnxdet.reference.float64 import NUDGES, Float64, samples  # noqa: E402
from pytest_onnxdet.reference.noise import map_noise  # noqa: E402
from pytest_onnxdet.run.bench import Workbench  # noqa: E402
from pytest_onnxdet.run.cases import Settings  # noqa: E402
from pytest_onnxdet.verify.noise import detection_noise  # noqa: E402


@pytest.fixture(params=["retinanet", "mask_rcnn", "point_rend", "cornernet"])
def at_work(request, tmp_path):
    spec = builtin_registry().get(request.param)
    settings = Settings(cache=tmp_path, limit=2)
    with Workbench(settings, builtin_datasets(), threads=1) as bench:
        yield bench.reference(spec), next(iter(Batches(bench.dataset(spec), 2)))


def test_float32_is_near_and_leaves_the_detector_as_it_was(at_work):
    reference, batch = at_work
    before = {name: value.clone() for name, value in reference.detector.state_dict().items()}
    ours, raw = reference.run(batch), reference.raw(batch)
    with Float64(reference) as double:
        exact, results = double.raw(batch), double.run(batch)
    assert torch.get_default_dtype() == torch.float32
    assert all(value.dtype == np.float64 for value in exact.values())
    assert all(torch.equal(before[name], v) for name, v in reference.detector.state_dict().items())
    noise = map_noise([exact], [[sample] for sample in samples(reference, batch, raw)])
    assert noise.keys() == raw.keys()
    assert all(0 < one.rms <= one.worst < 1e-3 for one in noise.values()), noise
    result = detection_noise(results, ours, Tolerance())
    assert result["detections"] > 0 and result["box_px"] < 1e-3 and result["score"] < 1e-4
    again = reference.run(batch)
    assert all(np.array_equal(a.boxes, b.boxes) for a, b in zip(ours, again, strict=True))


def test_noise_is_measured_on_pixels_a_step_of_float32_off():
    seen = []

    def raw(batch):
        seen.append(batch.images)
        return {}

    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    images[1, :, :, 5:] = 0  # padding
    batch = Batch(images, np.array([[8, 8], [8, 5]]), [{}, {}])
    assert len(list(samples(SimpleNamespace(raw=raw), batch, {}))) == 2 + NUDGES
    first, *others = seen
    assert np.array_equal(first, images) and len(others) == NUDGES >= 2
    assert not np.array_equal(*others[:2])
    for moved in others:
        assert moved.dtype == np.float32 and not moved[1, :, :, 5:].any()
        steps = np.abs(moved - images)[images != 0] / np.spacing(np.abs(images[images != 0]))
        assert steps.min() >= 0.5 and steps.max() <= 1
        assert 0.3 < (moved > images)[images != 0].mean() < 0.7


def test_what_mmdet_computes_in_float32_alone_has_no_noise_of_detections() -> None:
    """Its own error is passed over, any other is not."""
    from pytest_onnxdet.reference.detector import PyTorchFails
    from pytest_onnxdet.run.noise import _float32_alone

    def fail(cause: Exception) -> None:
        raise PyTorchFails("mmdet fails") from cause

    with _float32_alone():
        fail(RuntimeError("expected scalar type Float but found Double"))
    with pytest.raises(PyTorchFails), _float32_alone():
        fail(AssertionError())
