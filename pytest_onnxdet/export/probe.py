"""Whether a dynamic graph is one: a run at another size and batch than it was traced at.

The tracer takes a size that Python computes with for a constant, and says so in a warning. What
comes of it shows at any other size: an operator that fails, or other detections than PyTorch's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.export.options import ExportError, ExportOptions

if TYPE_CHECKING:
    from torch import nn

PACKAGE = Path(__file__).parents[1]
#: Steps of a side that keep what networks ask of a size: multiples of 32, CornerNet's canvas.
STEP, MIN_SIDE = 128, 96
#: What a gross difference is: rounding moves no box (px) and no score by so much, and brings few
#: detections in or out. What a graph is held to is parity; this is whether it is the same network.
BOX, SCORE, SHARE = 2.0, 0.01, 0.1
#: What a trial shows at best, and where PyTorch detects nothing in noise.
SAME, RUNS, UNTRIED = "same", "runs", "untried"
FAILED_NODE = re.compile(r"running (\w+) node\. Name:\s*'([^']*)'")


def baked_places(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    """One line for each place outside of this package at which the tracer took a size for fixed.

    Args:
        caught: the warnings of an export; others than the tracer's are left out.
    """
    import torch

    places: dict[str, None] = {}
    own, library = str(PACKAGE), str(Path(torch.__file__).parent)
    for warning in caught:
        if not issubclass(warning.category, torch.jit.TracerWarning):
            continue
        if warning.filename.startswith((own, library)):
            continue
        file = warning.filename.rpartition("site-packages/")[2]
        text = " ".join(str(warning.message).split()).partition(". ")[0]
        places.setdefault(f"{file}:{warning.lineno}: {text}")
    return list(places)


def second_sizes(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Other sizes to try a graph at, in turn: a small one, and for who takes none a larger one."""
    height, width = (_small(side) for side in size)
    yield height, width + STEP if height == width else width
    yield size[0] + STEP, size[1] + (2 * STEP if size[0] == size[1] else STEP)


def _small(side: int) -> int:
    small = (side - 1) % STEP + 1
    while small < MIN_SIDE or small == side:
        small += STEP
    return small


def require_dynamic(
    detector: nn.Module, options: ExportOptions, path: Path, places: Iterable[str] = ()
) -> str:
    """Runs a dynamic graph on ONNX Runtime at a second size and batch.

    Args:
        detector: what was exported.
        options: with which options; those of a dynamic graph.
        path: the graph.
        places: what :func:`baked_places` returned, for the message.

    Returns:
        :data:`SAME`; :data:`RUNS` where neither side detects anything in the noise that both are
        given; :data:`UNTRIED` where ONNX Runtime is missing, or PyTorch itself takes no other size.

    Raises:
        ExportError: the graph fails there, or detects something else than PyTorch.
    """
    if find_spec("onnxruntime") is None:
        return UNTRIED
    batch = options.batch + 1
    for size in second_sizes(options.size):
        feeds, wanted = _in_torch(detector, options, batch, size)
        if wanted is None:
            continue
        where = f"at batch {batch} and {size[0]} x {size[1]} px"
        try:
            outputs = _run(path, feeds)
        except Exception as error:  # a node may raise anything
            raise ExportError(_refusal(where, options, _node(error), places)) from error
        compare = _compare if options.postprocess else _compare_maps
        verdict = compare(wanted, outputs)
        if verdict not in (SAME, RUNS):
            raise ExportError(_refusal(where, options, verdict, places))
        return verdict
    return UNTRIED


def _in_torch(
    detector: nn.Module, options: ExportOptions, batch: int, size: tuple[int, int]
) -> tuple[dict[str, NDArray[Any]], list[NDArray[Any]] | None]:
    """Noise, and what the deploy model makes of it; None where it takes no such size."""
    import torch

    from pytest_onnxdet.families import lower
    from pytest_onnxdet.families.base import Limits, RawOutputs
    from pytest_onnxdet.models.channels import input_channels

    noise = np.random.default_rng(0).normal(size=(batch, input_channels(detector), *size))
    feeds = {"input": noise.astype(np.float32), "image_shape": np.array([size] * batch)}
    model: Any = lower(detector, options.lowering, Limits.from_config(options.limits))
    module = model if options.postprocess else RawOutputs(model).eval()
    try:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(value) for value in feeds.values()))
    except Exception:  # a network that needs a larger input says so in many ways
        return feeds, None
    return feeds, [value.numpy() for value in outputs]


def _run(path: Path, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # a small input: threads cost more than they save
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs: list[NDArray[Any]] = session.run(None, {name: feeds[name] for name in names})
    return outputs


def _compare_maps(wanted: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> str:
    """The same of the heads' maps."""
    pairs = zip(wanted, outputs, strict=True)
    same = all(a.shape == b.shape and np.allclose(a, b, rtol=0.05, atol=0.05) for a, b in pairs)
    return SAME if same else "the heads give other maps than PyTorch's"


def _compare(wanted: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> str:
    """:data:`SAME`, :data:`RUNS` where there is nothing to compare, or how they differ.

    Args:
        wanted: PyTorch's outputs: ``dets``, ``labels``, perhaps masks.
        outputs: the graph's.
    """
    if len(wanted[0]) != len(outputs[0]):
        return f"it answers {len(outputs[0])} images"
    total = missed = 0
    for side, other in ((wanted, outputs), (outputs, wanted)):
        for dets, labels, others, names in zip(*side[:2], *other[:2], strict=True):
            used = labels >= 0
            box = np.abs(dets[used, None, :4] - others[None, :, :4]).max(axis=2)
            score = np.abs(dets[used, None, 4] - others[None, :, 4])
            close = (box <= BOX) & (score <= SCORE) & (labels[used, None] == names[None])
            total, missed = total + int(used.sum()), missed + int((~close.any(axis=1)).sum())
    if not total:
        return RUNS
    if missed > max(2, SHARE * total):
        return f"{missed} of {total} detections are on one side only, PyTorch's or the graph's"
    return SAME


def _node(error: Exception) -> str:
    text = " ".join(str(error).split())
    named = FAILED_NODE.search(text)
    if named is None:
        return f"ONNX Runtime fails ({type(error).__name__}: {text[:200]})"
    return f"ONNX Runtime fails in {named[1]} {named[2]!r}, whose sizes are baked in"


def _refusal(where: str, options: ExportOptions, why: str, places: Iterable[str]) -> str:
    lines = [
        f"the graph is not dynamic: {where} {why}; it was traced at batch {options.batch} and "
        f"{options.size[0]} x {options.size[1]} px: export a static graph of each size"
    ]
    return "\n".join([*lines, *(f"  fixed while tracing: {place}" for place in places)])
