"""Which graph of a detector to export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_onnxdet.core.errors import StageError

INPUTS = ("input", "image_shape")
MIN_OPSET, LATEST_OPSET = 11, 20

# A dynamic graph is traced at a batch and a size that no case verifies: what the tracer baked in
# shows as a difference.
TRACE_BATCH = 5
TRACE_MARGIN = 32
# Tracing runs the detector: of full-size images a part is enough. In steps of 128 px a size keeps
# what networks ask of it, multiples of 32 or CornerNet's canvas of a multiple of 128 less 1.
TRACE_SIDE, TRACE_STEP = 384, 128


class ExportError(StageError):
    """A detector cannot be exported as asked; the message says why and what would work."""

    stage = "export"


class NoLoweringError(ExportError):
    """A part of the detector has no lowering: no exporter was asked yet."""

    stage = "lowering"


@dataclass(frozen=True)
class ExportOptions:
    """Everything that decides a graph, besides the detector.

    Attributes:
        shape: ``static`` bakes (N, H, W); ``dynamic`` leaves them free.
        batch: the batch size that is baked, or traced with.
        size: height and width that are baked, or traced with; multiples of 32 for most models.
        lowering: ``onnxruntime`` or ``tensorrt``.
        opset: version of the default ONNX domain.
        precision: ``fp32``.
        postprocess: False exports the heads' raw outputs, named by level.
        limits: caps by name, see :class:`pytest_onnxdet.families.base.Limits`.
        single_input: leave the input ``image_shape`` out, as in the stock tool's graphs.
        mask_output: ``roi`` for probabilities by region, ``image`` for bool masks of the input's
            size.
        simplify: pass the graph through onnxslim.
    """

    shape: str = "dynamic"
    batch: int = 1
    size: tuple[int, int] = (800, 1216)
    lowering: str = "onnxruntime"
    opset: int = 17
    precision: str = "fp32"
    postprocess: bool = True
    limits: Mapping[str, int] = field(default_factory=dict)
    single_input: bool = False
    mask_output: str = "roi"
    simplify: bool = False

    def __post_init__(self) -> None:
        if self.shape not in ("static", "dynamic"):
            raise ValueError(f"shape is {self.shape!r}; it is 'static' or 'dynamic'")
        if not MIN_OPSET <= self.opset <= LATEST_OPSET:
            raise ExportError(
                f"opset {self.opset} is not supported: {MIN_OPSET} to {LATEST_OPSET} are"
            )


def traced(side: int) -> int:
    """The side, in pixels, that a dynamic graph is traced at where cases run ``side``."""
    beyond = max(0, side - TRACE_SIDE)
    return side - -(-beyond // TRACE_STEP) * TRACE_STEP + TRACE_MARGIN
