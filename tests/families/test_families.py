"""Every family's graphs, from no proposal at all to more detections than are kept.

To get a given number of detections, the biases of the score layers are shifted, in PyTorch and in
the exported graph alike: the graph stays the one that was exported, only its initializers differ.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batch, collate
from pytest_onnxdet.data.datasets import builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import Detections, from_outputs
from pytest_onnxdet.data.image_maps import image_maps
from pytest_onnxdet.export.exporter import export_detector
from pytest_onnxdet.export.options import ExportOptions
from pytest_onnxdet.models.build import build_detector, load_config
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.reference.detector import Reference
from pytest_onnxdet.verify.compare import compare_detections

MODELS = builtin_registry().names("mini")
# Detections that are kept of an image: fewer than the minis' regions can give.
MAX_PER_IMG = 10
# Masks of the many poor boxes that a shifted bias lets through cross 0.5 anywhere, and one pixel of
# a small mask is more than 0.1 % of it: probabilities are compared, pasted masks are not.
HELD = Tolerance(mask_iou=0.0, reason="one pixel is more than 0.1 % of a small mask")
# Which points PointRend refines is open where floats tie; the conformance suite proves that.
POINTS = Tolerance(mask_iou=0.0, mask_prob=1.0, reason="PointRend's choices of points tie")
# Each of their queries is a detection.
QUERIED = ("DETR", "DeformableDETR")
# A model has a dynamic and a static graph for each lowering. The dynamic one for ONNX Runtime is
# tried in every run, the others in `make nightly`.
GRAPHS = [
    pytest.param((model, lowering, shape), id=f"{model}-{lowering}-{shape}", marks=marks)
    for lowering, shape, marks in (
        ("onnxruntime", "dynamic", ()),
        ("onnxruntime", "static", pytest.mark.nightly),
        ("tensorrt", "dynamic", pytest.mark.nightly),
        ("tensorrt", "static", pytest.mark.nightly),
    )
    for model in MODELS
]


@dataclass
class Family:
    """A mini, one of its graphs, and two images of different sizes."""

    detector: nn.Module
    graph: onnx.ModelProto
    info: dict[str, Any]
    batch: Batch
    folder: Path

    @property
    def tolerance(self) -> Tolerance:
        """What its detections are held to."""
        return POINTS if type(self.detector).__name__ == "PointRend" else HELD

    def run(self) -> tuple[list[Detections], list[Detections]]:
        """Detections of PyTorch and of ONNX Runtime, with the detector's present biases."""
        graph = copy.deepcopy(self.graph)
        values = dict(self.detector.named_parameters())
        for tensor in graph.graph.initializer:
            name = tensor.name.removeprefix("detector.")
            if name in values and values[name].shape == tuple(tensor.dims):
                value = numpy_helper.from_array(values[name].detach().numpy(), tensor.name)
                tensor.CopyFrom(value)
        path = self.folder / "shifted.onnx"
        onnx.save(graph, str(path))
        artifact = Artifact(path, "shifted", False, self.info)
        with OnnxRuntimeBackend("cpu").prepare(artifact, threads=1) as session:
            maps = image_maps(self.info)
            candidate = from_outputs(session.run(self.batch), self.batch, maps=maps)
        return Reference(self.detector).run(self.batch), candidate

    def score_layers(self) -> list[tuple[nn.Parameter, Any, float]]:
        """Biases that decide how much is found, the part that counts, and its direction."""
        model: Any = self.detector
        if hasattr(model, "roi_head"):
            heads = model.roi_head.bbox_head
            heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
            return [(head.fc_cls.bias, slice(-1, None), -1.0) for head in heads]
        if model.bbox_head is None:
            return [(model.mask_head.conv_cls.bias, slice(None), 1.0)]
        head = model.bbox_head
        kind = type(head).__name__
        if kind == "YOLOV3Head":
            scores = torch.arange(head.num_attrib).repeat(head.num_base_priors) >= 4
            return [(conv.bias, scores, 1.0) for conv in head.convs_pred]
        if kind == "SSDHead":
            step = head.cls_out_channels
            last = [seq[-1] if isinstance(seq, nn.Sequential) else seq for seq in head.cls_convs]
            return [(conv.bias, slice(step - 1, None, step), -1.0) for conv in last]
        if kind == "CornerHead":
            heats = (head.tl_heat[-1], head.br_heat[-1])
            return [(heat[-1].conv.bias, slice(None), 1.0) for heat in heats]
        if kind == "YOLOXHead":
            return [(conv.bias, slice(None), 1.0) for conv in head.multi_level_conv_obj]
        layers = {"FCOSHead": "conv_cls", "ATSSHead": "atss_cls"}
        return [(getattr(head, layers.get(kind, "retina_cls")).bias, slice(None), 1.0)]

    def shift(self, amount: float) -> Callable[[], None]:
        """Makes detections likelier by ``amount`` logits; returns what takes it back."""
        before = [(bias, bias.detach().clone()) for bias, _, _ in self.score_layers()]
        with torch.no_grad():
            for bias, part, sign in self.score_layers():
                bias[part] += sign * amount

        def undo() -> None:
            with torch.no_grad():
                for bias, value in before:
                    bias.copy_(value)

        return undo


@pytest.fixture(scope="module", params=GRAPHS)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    model, lowering, shape = request.param
    spec = builtin_registry().get(model, "mini")
    folder = tmp_path_factory.mktemp(model)
    detector = build_detector(spec)
    dataset = load_dataset(builtin_datasets().get(spec.dataset), load_config(spec))
    model: Any = detector
    head = getattr(model, "roi_head", None) or model.bbox_head or model.mask_head
    head.test_cfg["max_per_img"] = MAX_PER_IMG
    batch = collate([dataset.sample(i) for i in (0, 1)])
    height, width = batch.images.shape[2:]
    options = ExportOptions(shape=shape, batch=2, size=(height, width), lowering=lowering)
    if shape == "dynamic":
        options = replace(options, batch=3, size=(height + 32, width + 32))
    path = folder / "graph.onnx"
    info = export_detector(detector, options, path)
    yield Family(detector, onnx.load(str(path)), info, batch, folder)


def held(family: Family, count: Callable[[int], bool]) -> None:
    """PyTorch finds ``count`` per image, and the graph finds the same."""
    reference, candidate = family.run()
    assert all(count(len(one)) for one in reference), [len(one) for one in reference]
    assert [len(one) for one in candidate] == [len(one) for one in reference]
    if sum(map(len, reference)):
        result = compare_detections(reference, candidate, family.tolerance)
        assert result.ok, result.format()


@pytest.mark.filterwarnings("ignore")
def test_no_detection(family: Family) -> None:
    if type(family.detector).__name__ in QUERIED:
        pytest.skip("DETR gives a detection for every query, whatever its score")
    model: Any = family.detector
    if type(model).__name__ == "CornerNet":
        # Soft-NMS keeps the first pair whatever its score: no two corners may belong together.
        embedding = model.bbox_head.tl_emb[-1][-1].conv.bias
        with torch.no_grad():
            embedding += 100.0
        try:
            held(family, lambda n: n == 0)
        finally:
            with torch.no_grad():
                embedding -= 100.0
        return
    undo = family.shift(-60.0)
    try:
        held(family, lambda n: n == 0)
    finally:
        undo()


@pytest.mark.filterwarnings("ignore")
def test_one_detection(family: Family) -> None:
    """The bias is searched by halving until PyTorch finds exactly one box in the first image."""
    if type(family.detector).__name__ in QUERIED:
        pytest.skip("DETR gives a detection for every query, whatever its score")
    reference = Reference(family.detector)
    low, high = -12.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        undo = family.shift(middle)
        try:
            count = len(reference.run(family.batch)[0])
            if count == 1:
                wanted, candidate = family.run()
                assert len(candidate[0]) == 1 == len(wanted[0])
                result = compare_detections(wanted, candidate, family.tolerance)
                assert result.ok, result.format()
                return
        finally:
            undo()
        low, high = (middle, high) if count == 0 else (low, middle)
    pytest.fail("no bias gives exactly one detection")


@pytest.mark.filterwarnings("ignore")
def test_more_detections_than_are_kept(family: Family) -> None:
    if type(family.detector).__name__ == "YOLOX":
        pytest.skip("YOLOX keeps all that it finds")
    amounts = [2.0, 4.0, 6.0, 8.0, 10.0]
    if type(family.detector).__name__ in QUERIED:
        amounts = [0.0]
    for amount in amounts:
        undo = family.shift(amount) if amount else lambda: None
        try:
            if all(len(one) == MAX_PER_IMG for one in Reference(family.detector).run(family.batch)):
                held(family, lambda n: n == MAX_PER_IMG)
                return
        finally:
            undo()
    pytest.fail(f"no bias gives {MAX_PER_IMG} detections")


@pytest.mark.filterwarnings("ignore")
def test_no_proposal(family: Family) -> None:
    model: Any = family.detector
    if not hasattr(model, "rpn_head"):
        pytest.skip("a single-stage model has no proposals")
    bias = model.rpn_head.rpn_reg.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[0::4] += 1e4  # every box leaves the image to the right and is clipped to nothing
    try:
        held(family, lambda n: n == 0)
    finally:
        with torch.no_grad():
            bias.copy_(before)
