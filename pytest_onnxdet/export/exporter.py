"""From a detector to an ONNX file that holds to the graph's contract.

TorchScript's exporter is used because it takes mmdet's modules as they are. Another exporter would
touch more than this file: ``families/ops/custom.py`` translates operators for TorchScript, loops in
``families/ops`` are scripted, and some lowerings avoid what its tracer would take for a constant.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.store import Artifact, ArtifactStore
from pytest_onnxdet.data.image_maps import IMAGE_MAPS_NAME
from pytest_onnxdet.data.masks import THRESHOLD, THRESHOLD_NAME, mask_threshold
from pytest_onnxdet.export.failures import cause, quiet_tracer, reason
from pytest_onnxdet.export.identity import identity
from pytest_onnxdet.export.options import (
    INPUTS,
    ExportError,
    ExportOptions,
    NoLoweringError,
)
from pytest_onnxdet.export.probe import baked_places
from pytest_onnxdet.graph.describe import describe
from pytest_onnxdet.graph.walk import all_nodes
from pytest_onnxdet.models.checkpoint import one_line

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.models.spec import ModelSpec

#: Who made a graph, as it says of itself.
PRODUCER = "pytest-onnxdet"


def export_model(
    spec: ModelSpec,
    options: ExportOptions,
    store: ArtifactStore,
    detector: nn.Module | None = None,
    families: FamilyRegistry | None = None,
) -> Artifact:
    """The artifact of a spec, exported when the store does not hold it yet.

    Args:
        spec: which detector; its weights and config are part of the artifact's identity.
        options: which graph of it.
        store: where artifacts are kept.
        detector: the spec's detector if it is built already.
        families: where its family is looked up; None: the built-in ones.

    Raises:
        ExportError: the exporter failed, or cannot do what was asked.
        BuildError: the detector cannot be built.
    """
    from pytest_onnxdet.families import UnsupportedPart, lower
    from pytest_onnxdet.families.registry import own_code
    from pytest_onnxdet.models.build import build_detector

    built = build_detector(spec) if detector is None else detector

    def build(path: Path) -> Mapping[str, Any]:
        return export_detector(built, options, path, families)

    parts = identity(spec, options, built)
    if families is not None:
        # What no family takes is refused, with the reason, when it is exported.
        with contextlib.suppress(UnsupportedPart):
            model = lower(built, options.lowering, families=families)
            parts = {**parts, **own_code(families.of(built), model)}
    return store.get(parts, build)


def export_detector(
    detector: nn.Module,
    options: ExportOptions,
    path: Path,
    families: FamilyRegistry | None = None,
) -> dict[str, Any]:
    """Exports a detector to ``path``.

    Args:
        detector: one of mmdet's detectors in eval mode. It is shared, not changed.
        options: which graph.
        path: the .onnx file to write.
        families: where the detector's family is looked up; None: the built-in ones.

    Returns:
        What :class:`Artifact` keeps as ``info``.

    Raises:
        NoLoweringError: a part has no lowering.
        ExportError: the opset is too low to be exact, or tracing failed.
    """
    import onnx
    import torch

    from pytest_onnxdet.export.simplify import SimplifyError, simplify
    from pytest_onnxdet.families import UnsupportedPart, lower
    from pytest_onnxdet.families.base import Limits, RawOutputs
    from pytest_onnxdet.families.ops.custom import translations
    from pytest_onnxdet.families.ops.opset import NeedsOpset
    from pytest_onnxdet.families.outputs import adapt
    from pytest_onnxdet.families.registry import builtin_families
    from pytest_onnxdet.models.channels import input_channels

    families = families or builtin_families()
    try:
        family = families.of(detector)
        need, maps = family.min_opset(detector, options.lowering), family.image_maps(detector)
    except UnsupportedPart as error:
        raise NoLoweringError(str(error)) from error
    threshold = maps.threshold if maps is not None else _mask_threshold(detector)
    if options.opset < need.opset:
        raise ExportError(
            f"opset {options.opset} would not be exact: {need.reason}; "
            f"the least opset that works is {need.opset}"
        )
    channels = input_channels(detector)
    names = list(INPUTS[:1] if options.single_input else INPUTS)
    try:
        images = torch.zeros(options.batch, channels, *options.size)
    except (RuntimeError, MemoryError) as error:
        raise ExportError(
            f"a batch of {options.batch} x {channels} x {options.size[0]} x {options.size[1]} "
            "does not fit into memory: give a smaller --shape or --batch"
        ) from error
    example = (images, torch.tensor([options.size] * options.batch))
    # In a locale without UTF-8 a path may hold what PyTorch's own code takes for no text.
    written = str(path) if _is_text(path) else io.BytesIO()
    module: Any = None
    try:
        model = lower(
            detector,
            options.lowering,
            Limits.from_config(options.limits),
            fixed_shape=options.shape == "static",
            families=families,
        )
        if options.postprocess:
            outputs, module = list(model.outputs), model
        else:
            module = RawOutputs(model)
            with torch.no_grad():
                outputs = list(model.raw(*example))
        module = adapt(
            module, outputs, single_input=options.single_input, mask_output=options.mask_output
        )
        with _caught() as caught, quiet_tracer(), torch.no_grad(), translations(options.opset):
            torch.onnx.export(
                module.eval(),
                example[: len(names)],
                written,
                input_names=names,
                output_names=outputs,
                dynamic_axes=_dynamic_axes(outputs, options, maps is not None),
                opset_version=options.opset,
                dynamo=False,
            )
    except UnsupportedPart as error:
        raise NoLoweringError(str(error)) from error
    except Exception as error:
        needs = cause(error, NeedsOpset)
        if needs is not None:
            raise ExportError(
                f"opset {options.opset} would not be exact: {needs}; "
                f"the least opset that works is {needs.min_opset}"
            ) from error
        why = one_line(error) if module is None else reason(error, module, example, options)
        raise ExportError(
            f"{type(detector).__name__} does not export "
            f"({options.shape}, opset {options.opset}): {why}"
        ) from error
    if isinstance(written, io.BytesIO):
        path.write_bytes(written.getvalue())
    graph = onnx.load(str(path))
    _require_input(graph, detector)
    _finish(graph, options)
    before = describe(graph)["nodes"]
    if options.simplify:
        try:
            graph = simplify(graph)
        except SimplifyError as error:
            raise ExportError(str(error)) from error
    if "masks" in outputs and maps is not None:
        onnx.helper.set_model_props(graph, {IMAGE_MAPS_NAME: maps.text()})
    elif "masks" in outputs and options.mask_output == "image":
        # Of masks by region whoever pastes them decides; these are cut already.
        onnx.helper.set_model_props(graph, {THRESHOLD_NAME: repr(threshold)})
    onnx.save(graph, str(path))
    info = _info(graph, options, path, channels)
    if "masks" in outputs:
        info[THRESHOLD_NAME] = threshold
    if "masks" in outputs and maps is not None:
        info[IMAGE_MAPS_NAME] = asdict(maps)
    if options.shape == "dynamic":
        info["baked"] = baked_places(caught)
    return {**info, "nodes_before": before}


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _mask_threshold(detector: nn.Module) -> float:
    """The detector's, before anything is traced; raises `ExportError` where there is no such."""
    cfg: Any = getattr(detector, "cfg", None)
    try:
        return mask_threshold(cfg.model) if cfg is not None else THRESHOLD
    except ValueError as error:
        raise ExportError(str(error)) from error


def _dynamic_axes(
    outputs: list[str], options: ExportOptions, image_maps: bool
) -> dict[str, dict[int, str]]:
    from pytest_onnxdet.families.base import PROPOSALS

    axes: dict[str, dict[int, str]] = {}
    free = options.shape == "dynamic"
    if free:
        axes["input"] = {0: "batch", 2: "height", 3: "width"}
        if not options.single_input:
            axes["image_shape"] = {0: "batch"}
    if not options.postprocess:
        if free:
            axes |= {name: {0: "batch"} for name in outputs}
        if PROPOSALS in outputs:
            axes[PROPOSALS] = {**axes.get(PROPOSALS, {}), 1: "num_proposals"}
        return axes
    for name in outputs:
        axes[name] = {**({0: "batch"} if free else {}), 1: "num_dets"}
        if name == "masks" and free and image_maps:
            axes[name] |= {2: "map_height", 3: "map_width"}
        elif name == "masks" and options.mask_output == "image" and free:
            axes[name] |= {2: "height", 3: "width"}
    return axes


def _require_input(graph: onnx.ModelProto, detector: nn.Module) -> None:
    """Refuses a graph that looks at no image; raises `ExportError`."""
    used = {name for node in all_nodes(graph.graph) for name in node.input}
    if INPUTS[0] not in used:
        raise ExportError(
            f"{type(detector).__name__} does not export: what it finds does not depend on the "
            "image in the traced graph: a layer computes in NumPy, or in compiled code that the "
            "tracer does not see, so that its result became a constant"
        )


def _finish(graph: onnx.ModelProto, options: ExportOptions) -> None:
    """Brings a traced graph to the contract: both inputs, declared output shapes."""
    import onnx

    have = {value.name for value in graph.graph.input}
    # A model that never clips (YOLOv3) does not look at it.
    if "image_shape" not in have and not options.single_input:
        rows = "batch" if options.shape == "dynamic" else options.batch
        graph.graph.input.append(
            onnx.helper.make_tensor_value_info("image_shape", onnx.TensorProto.INT64, [rows, 2])
        )
    graph.doc_string = ""
    graph.producer_name = PRODUCER
    del graph.graph.value_info[:]
    for output in () if options.postprocess else graph.graph.output:
        # The tracer gives sizes of different levels one name, and ONNX Runtime relies on it.
        for axis, dim in enumerate(output.type.tensor_type.shape.dim):
            if dim.dim_param and dim.dim_param not in ("batch", "num_proposals"):
                dim.dim_param = f"{output.name}_{axis}"


def _info(
    graph: onnx.ModelProto, options: ExportOptions, path: Path, channels: int
) -> dict[str, Any]:
    shape = [options.batch, channels, *options.size]
    return {
        **describe(graph),
        "bytes": path.stat().st_size,
        "inputs": [value.name for value in graph.graph.input],
        "outputs": [value.name for value in graph.graph.output],
        "shape": options.shape,
        "lowering": options.lowering,
        "precision": options.precision,
        "channels": channels,
        "traced_shape": shape,
        "static_shape": shape if options.shape == "static" else None,
    }


@contextlib.contextmanager
def _caught() -> Iterator[list[warnings.WarningMessage]]:
    """Keeps warnings from being printed; those of foreign modules are looked at.

    Each of this package's was: shapes become Python numbers only where the architecture fixes
    them, and parity at other shapes proves it.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
