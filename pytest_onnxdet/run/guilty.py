"""Which node of a case's graph is to blame, once the stage is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import onnx

from pytest_onnxdet.core.fingerprint import Fingerprint
from pytest_onnxdet.graph.cut import up_to
from pytest_onnxdet.reference.op_trace import computed, value
from pytest_onnxdet.verify.localize import Blame
from pytest_onnxdet.verify.locate import nearest, suspect
from pytest_onnxdet.verify.nodes import NodeBlame, Runner, first_differing_node, ort_runner
from pytest_onnxdet.verify.raw import Arrays, compare_raw

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.data.batches import Batch
    from pytest_onnxdet.run.bench import Workbench
    from pytest_onnxdet.run.cases import Case

#: How a stage's name reads where the graph itself was changed since its export.
CHANGED = "the graph is not what the detector exports to: it was changed afterwards"


def guilty_node(bench: Workbench, case: Case, blame: Blame, deploy: Any) -> str:
    """The node to blame, in words; empty where no node is.

    Of stage ``export`` it is the first node that differs from a second export, or, where the two
    graphs are the same, the first whose output PyTorch does not compute. Of stage ``runtime`` it is
    the first that ONNX Runtime's optimisations change. It is looked for on the first batch that
    shows the difference.

    Args:
        bench: where the case is at work.
        case: the case.
        blame: the stage, and the images that differ.
        deploy: the deploy model.
    """
    if blame.stage not in ("export", "runtime") or blame.result is None:
        return ""
    try:
        return _node(bench, case, blame, deploy)
    except Exception as error:  # the difference is reported all the same
        return f"no node is named: {type(error).__name__}: {error}"


def _node(bench: Workbench, case: Case, blame: Blame, deploy: Any) -> str:
    assert blame.result is not None
    index = min((fault.index for fault in blame.result.faults), default=0)
    batch = next(islice(iter(bench.batches(case)), index // case.batch, None))
    artifact = bench.artifact(case)
    model = onnx.load(artifact.path)
    inputs: Arrays = {"input": batch.images, "image_shape": batch.image_shape}
    feeds = {name: inputs[name] for name in artifact.inputs}
    plain = ort_runner(feeds, optimised=False)
    if blame.stage == "runtime":
        if not case.backend.name.startswith("onnxruntime"):
            return ""
        node = first_differing_node(model, model, plain, ort_runner(feeds, optimised=True))
        return "" if node is None else _told(node, deploy)
    good = onnx.load(bench.second_export(case).path)
    if good.graph != model.graph:
        node = first_differing_node(good, model, plain, plain, rtol=0.0, atol=0.0)
        if node is not None:
            return f"{_told(node, deploy)}\n{CHANGED}"
    return _unknown_to_pytorch(model, plain, deploy, batch)


def _unknown_to_pytorch(model: onnx.ModelProto, run: Runner, deploy: Any, batch: Batch) -> str:
    inputs = batch.images, batch.image_shape
    known = computed(deploy, inputs)
    found = suspect(model, run, known)
    if found is None:
        return ""
    tensor = found.node.tensor
    got = run(up_to(model, [tensor]), [tensor])[tensor]
    number = nearest(Fingerprint.of(got), known, found.last)
    if number is None:
        return _told(found.node, deploy)
    wanted = value(deploy, inputs, number).reshape(got.shape)
    difference = compare_raw({tensor: wanted}, {tensor: got}, 0.0, 0.0).differences[0]
    ours = known[number]
    note = f"PyTorch computes it by {ours.operator} at {ours.line}"
    return _told(replace(found.node, difference=difference, note=note), deploy)


def _told(node: NodeBlame, deploy: Any) -> str:
    source = source_of(deploy.detector, node.scope)
    return f"{node}{f'; {source}' if source else ''}"


def source_of(detector: nn.Module, path: str) -> str:
    """Where the code of a module lies, or of the nearest around it that is not PyTorch's own.

    Args:
        detector: the whole.
        path: of the module, ``bbox_head.cls_convs.0.conv``.

    Returns:
        ``mmcv.cnn.bricks.conv_module.ConvModule.forward, line 201``; empty where there is none.
    """
    parts = path.split(".") if path else []
    while parts:
        try:
            kind = type(detector.get_submodule(".".join(parts)))
        except AttributeError:
            return ""
        forward = getattr(kind.forward, "__wrapped__", kind.forward)
        if not kind.__module__.startswith("torch."):
            line = forward.__code__.co_firstlineno
            return f"{kind.__module__}.{kind.__qualname__}.forward, line {line}"
        parts.pop()
    return ""
