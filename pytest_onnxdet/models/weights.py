"""A state_dict put into a detector, and what is wrong where it does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pytest_onnxdet.models.checkpoint import BuildError, one_line
from pytest_onnxdet.models.config_file import of_mmdet_3

NAMED = 3  # how many offending names a message quotes
#: What only checkpoints of MMDetection 3 have in their ``meta``.
_OF_3 = ("mmengine_version", "dataset_meta", "experiment_name")


def refuse_mmdet_3(file: Any, meta: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuses a checkpoint of MMDetection 3; raises `BuildError`.

    Args:
        file: for the message.
        meta: what the checkpoint says of itself.
        names: of its tensors.
    """
    signs = [f"meta.{name}" for name in _OF_3 if name in meta]
    signs += [name for name in names if name.startswith("data_preprocessor.")][:1]
    if signs:
        raise BuildError(f"{file}: it has {', '.join(signs)}: {of_mmdet_3('checkpoint')}")


def _refuse_odd_tensors(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], file: Any
) -> None:
    """Refuses tensors that PyTorch copies without what makes them odd, or not at all."""
    for name, tensor in state.items():
        if name not in own or not own[name].is_floating_point():
            continue
        if tensor.is_meta:
            what = "has no values (device meta)"
        elif tensor.layout != torch.strided:
            what = f"is of layout {tensor.layout}"
        elif not tensor.is_floating_point():
            what = f"is of type {tensor.dtype}"
        else:
            continue
        raise BuildError(
            f"{file}: {name} {what}: save the state_dict as plain floating point tensors"
        )


def put_into(model: Any, state: Mapping[str, torch.Tensor], file: Any) -> None:
    """Fills a detector. Every parameter must be there with its shape, and nothing else.

    Args:
        model: the detector.
        state: tensors by name.
        file: where they are from, for messages.

    Raises:
        BuildError: they do not fit, or are no numbers.
    """
    own = model.state_dict()
    _refuse_odd_tensors(own, state, file)
    misshapen = [name for name, t in state.items() if name in own and own[name].shape != t.shape]
    # Not strict: modules rename what older versions of mmdet saved while they load.
    fitting = {name: t for name, t in state.items() if name not in misshapen}
    try:
        fit = model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # a module renamed what is of another shape then
        raise BuildError(
            f"{file}: these weights do not fit {type(model).__name__} as configured: "
            f"{one_line(error)}: give the checkpoint that was trained with this config"
        ) from error
    missing = [
        name
        for name in fit.missing_keys
        if not name.endswith("num_batches_tracked") and name not in state
    ]
    shapes = [f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}" for n in misshapen]
    parts = [
        f"{len(names)} {what} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", fit.unexpected_keys),
            ("misshapen", shapes),
        )
        if names
    ]
    if parts:
        hint = _hint(model, state, own, misshapen, missing)
        raise BuildError(
            f"{file}: these weights do not fit {type(model).__name__} as configured: "
            f"{'; '.join(parts)}: {hint}"
        )
    broken = [name for name, value in model.state_dict().items() if _broken(name, value)]
    if broken:
        raise BuildError(
            f"{file}: {len(broken)} tensors hold values that are no numbers or no variances "
            f"({', '.join(broken[:NAMED])}{', ...' if len(broken) > NAMED else ''}): the training "
            "went wrong; take an earlier checkpoint"
        )


def _broken(name: str, value: torch.Tensor) -> bool:
    """Whether a weight or a statistic makes every output NaN or infinite."""
    if not value.is_floating_point():
        return False
    negative = name.endswith("running_var") and bool((value < 0).any())
    return negative or not bool(value.isfinite().all())


def _hint(
    model: Any,
    state: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    misshapen: Sequence[str],
    missing: Sequence[str],
) -> str:
    """What to do about weights that do not fit."""
    for name in misshapen:
        counts = None if missing else _class_counts(model, name, len(state[name]))
        if counts is not None:
            head, saved, configured = counts
            return (
                f"{name} is of {saved} classes and model.{head}.num_classes is {configured}: set "
                f"it to {saved}, or give the checkpoint that was trained with this config"
            )
    whole = set(own)
    prefixes = {name.partition(".")[0] for name in state}
    inner = {name.partition(".")[2] for name in state}
    if len(prefixes) == 1 and inner & whole:
        return f"its names begin with {prefixes.pop()!r}: save them without it"
    if {f"backbone.{name}" for name in state} & whole:
        return "it holds a backbone alone: give a detector's checkpoint"
    return "give the checkpoint that was trained with this config"


def _class_counts(model: Any, name: str, rows: int) -> tuple[str, int, int] | None:
    """The head of a layer of class scores, the classes of its saved form, and the configured ones.

    Args:
        model: the detector.
        name: of the layer's weight or bias.
        rows: of the saved one.

    Returns:
        None where the layer is no such, or its rows are of no whole number of classes.
    """
    modules = dict(model.named_modules())
    path = name.rpartition(".")[0]
    own_rows = len(modules[path].weight) if hasattr(modules.get(path), "weight") else 0
    while path and not isinstance(getattr(modules.get(path), "num_classes", None), int):
        path = path.rpartition(".")[0]
    if not path or not own_rows or any(word in name for word in ("reg", "bbox_pred")):
        return None
    head: Any = modules[path]
    classes = head.num_classes
    for more in (getattr(head, "num_attrib", classes) - classes, 0, 1):
        each = own_rows // (classes + more)
        if own_rows % (classes + more) or rows % each or rows // each <= more:
            continue
        return path, rows // each - more, classes
    return None
