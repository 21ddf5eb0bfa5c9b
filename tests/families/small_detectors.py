"""Small detectors built of a config's text, two images of different sizes, and both comparisons.

For tests of families that have no trained mini: random weights are calibrated as the family says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batch, alone
from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.data.image_maps import ImageMaps, image_maps
from pytest_onnxdet.export.exporter import export_detector
from pytest_onnxdet.export.options import ExportOptions
from pytest_onnxdet.families import lower
from pytest_onnxdet.families.registry import builtin_families
from pytest_onnxdet.models.build import initialise
from pytest_onnxdet.models.calibrate import calibrate
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.compare import compare_detections

LOWERINGS = ("onnxruntime", "tensorrt")
#: Static graphs are tried in `make nightly`.
SHAPES = ("dynamic", pytest.param("static", marks=pytest.mark.nightly))
#: Four stages of few channels.
BACKBONE = {
    "type": "ResNet",
    "depth": 18,
    "base_channels": 8,
    "num_stages": 4,
    "out_indices": (0, 1, 2, 3),
    "norm_cfg": {"type": "BN"},
    "norm_eval": True,
    "style": "pytorch",
}


def images(size: tuple[int, int] = (96, 128), seed: int = 0) -> Batch:
    """Two images of different sizes, the second one enlarged by its pipeline, in one input.

    Args:
        size: (H, W) of the input in pixels.
        seed: of what the images show.
    """
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    values = torch.zeros(2, 3, height, width)
    shapes = [(height, width - 20), (height - 25, width)]
    metas = []
    for row, (h, w) in enumerate(shapes):
        coarse = torch.randn(1, 3, 13, 11, generator=generator)
        drawn = functional.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
        values[row, :, :h, :w] = drawn[0] + 0.3 * torch.randn(3, h, w, generator=generator)
        scale = 1.0 + row
        metas.append(
            {
                "filename": f"{row}.png",
                "img_shape": (h, w, 3),
                "ori_shape": (int(h / scale), int(w / scale), 3),
                "pad_shape": (height, width, 3),
                "batch_input_shape": size,
                "scale_factor": np.full(4, scale, np.float32),
                "flip": False,
            }
        )
    return Batch(values.numpy(), np.array(shapes, np.int64), metas)


def centred(size: tuple[int, int] = (96, 160), seed: int = 0) -> Batch:
    """:func:`images` as CornerNet's pipeline leaves them: in the middle of a canvas of their own.

    Canvases are multiples of 32 larger than the image, as with ``logical_or`` 31 and one pixel
    more; the batch's ``size`` has to hold them. Images keep their size.
    """
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    values = torch.zeros(2, 3, height, width)
    shapes = [(height - 10, width - 49), (height - 33, width - 3)]
    metas = []
    for row, (h, w) in enumerate(shapes):
        top, left = (((side | 31) + 1) // 2 - side // 2 for side in (h, w))
        coarse = torch.randn(1, 3, 13, 11, generator=generator)
        drawn = functional.interpolate(coarse, size=(h, w), mode="bilinear", align_corners=False)
        noise = 0.3 * torch.randn(3, h, w, generator=generator)
        values[row, :, top : top + h, left : left + w] = drawn[0] + noise
        metas.append(
            {
                "filename": f"{row}.png",
                "img_shape": (h, w, 3),
                "ori_shape": (h, w, 3),
                "pad_shape": (height, width, 3),
                "batch_input_shape": size,
                "scale_factor": np.ones(4, np.float32),
                "flip": False,
                "border": np.array([top, top + h, left, left + w]),
            }
        )
    return Batch(values.numpy(), np.array(shapes, np.int64), metas)


def built(model: Mapping[str, Any], batch: Batch | None = None, **data: Any) -> Any:
    """A detector with calibrated random weights, in eval mode.

    Args:
        model: the config's ``model``.
        batch: what it is calibrated on; None: :func:`images`.
        data: the config's other keys.
    """
    import mmcv
    from mmdet.models import build_detector

    torch.manual_seed(0)
    cfg = mmcv.Config({"model": dict(model), **data})
    detector = build_detector(cfg.model)
    initialise(detector)
    detector.cfg = cfg
    detector.eval()
    batch = batch or images()
    calibration = builtin_families().of(detector).calibration(detector)
    calibrate(detector, torch.from_numpy(batch.images), batch.metas, calibration)
    return detector


def reference_of(detector: Any, batch: Batch) -> list[Detections]:
    """What mmdet finds in each image, given one by one as the suite gives them."""
    reference = Reference(detector)
    return [one for image in alone(batch) for one in reference.run(image)]


def require_same(
    reference: list[Detections],
    outputs: Mapping[str, Any],
    batch: Batch,
    tolerance: Tolerance | None = None,
    maps: ImageMaps | None = None,
) -> None:
    """Every image has detections, and both sides have the same ones."""
    candidate = from_outputs(dict(outputs), batch, maps=maps)
    assert all(len(one) for one in reference), [len(one) for one in reference]
    scores = np.concatenate([one.scores for one in reference])
    assert len(np.unique(scores)) > len(scores) / 2, "the scores hardly vary"
    result = compare_detections(reference, candidate, tolerance or Tolerance())
    assert result.ok, result.format()


def require_eager(detector: Any, batch: Batch, lowering: str, fixed_shape: bool = False) -> None:
    """The deploy model in PyTorch has mmdet's raw outputs and detections."""
    model = lower(detector, lowering, fixed_shape=fixed_shape)
    feeds = torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape)
    reference = Reference(detector)
    with torch.no_grad():
        values, raw = model(*feeds), model.raw(*feeds)
    wanted = reference.raw(batch)
    assert wanted.keys() <= raw.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(raw[name].numpy(), value, rtol=1e-4, atol=1e-4, err_msg=name)
    outputs = {k: v.numpy() for k, v in zip(model.outputs, values, strict=True)}
    maps = reference.family.image_maps(detector)
    require_same(reference_of(detector, batch), outputs, batch, maps=maps)


def require_exported(
    detector: Any,
    batch: Batch,
    lowering: str,
    folder: Path,
    shape: str = "dynamic",
    opset: int = 17,
) -> None:
    """The exported graph, on ONNX Runtime, finds what mmdet finds.

    A dynamic graph is traced at another size and batch.
    """
    height, width = batch.images.shape[2:]
    count, step = (len(batch.images), 0) if shape == "static" else (3, 32)
    options = ExportOptions(
        shape=shape,
        batch=count,
        size=(height + step, width + 2 * step),
        lowering=lowering,
        opset=opset,
    )
    path = folder / f"{lowering}-{shape}.onnx"
    info = export_detector(detector, options, path)
    with OnnxRuntimeBackend("cpu").prepare(Artifact(path, "x", False, info), threads=1) as session:
        outputs = session.run(batch)
    require_same(reference_of(detector, batch), outputs, batch, maps=image_maps(info))


def require_post_processed(detector: Any, batch: Batch) -> None:
    """The family's post-processing of mmdet's raw outputs gives mmdet's detections."""
    reference = Reference(detector)
    again = reference.post_process(reference.raw(batch), batch, lowest_first=True)
    result = compare_detections(reference_of(detector, batch), again, Tolerance())
    assert result.ok, result.format()


def require_narrow_scores(detector: Any, batch: Batch) -> None:
    """Scores lie within what pixels at the threshold leave open, which is little."""
    reference = Reference(detector)
    for one in reference.post_process(reference.raw(batch), batch, mask_ranges=True):
        assert one.score_range is not None
        low, high = one.score_range.T
        assert (low <= one.scores + 1e-6).all()
        assert (one.scores <= high + 1e-6).all()
        assert (high - low).max() < 0.01


class FamilyTests:
    """What the small detectors of a family have to keep, each against mmdet's own.

    A subclass's module has a fixture ``detector``.

    Attributes:
        images: gives a batch of two images.
        other: (H, W) of an input whose sides are other ones.
    """

    images = staticmethod(images)
    other = (128, 96)

    @pytest.mark.parametrize("lowering", LOWERINGS)
    def test_eager(self, detector: Any, lowering: str) -> None:
        require_eager(detector, self.images(), lowering)
        require_eager(detector, self.images(self.other, seed=1), lowering, fixed_shape=True)

    def test_post_processing(self, detector: Any) -> None:
        require_post_processed(detector, self.images())

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("lowering", LOWERINGS)
    def test_exported(self, detector: Any, lowering: str, shape: str, tmp_path: Path) -> None:
        require_exported(detector, self.images(), lowering, tmp_path, shape)


class CanvasTests(FamilyTests):
    """:class:`FamilyTests` on images in the middle of canvases, as of CornerNet's pipeline."""

    images = staticmethod(centred)
    other = (160, 96)
