"""The reference in float64: the same detector, and nothing of it left behind."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mmdet")

from pytest_onnxdet.data.batches import Batches  # noqa: E402
from pytest_onnxdet.data.datasets import builtin_datasets  # noqa: E402
from pytest_onnxdet.models.registry import builtin_registry  # noqa: E402
from pytest_onnxdet.models.spec import Tolerance  # noqa: E402
from pytest_onnxdet.reference.float64 import Float64, samples  # noqa: E402
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
