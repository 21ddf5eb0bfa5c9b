"""Faults in the constants that boxes and scores are made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.verify.mutants.editing import Editor, handle
from pytest_onnxdet.verify.mutants.operator import Operator

Array = NDArray[Any]
Wanted = Callable[[Array], bool]


def _operands(
    kinds: tuple[str, ...], wanted: Wanted, behind: str = ""
) -> Callable[[Editor], list[str]]:
    """Places ``NODE#INPUT`` where such a node has such a constant.

    Args:
        kinds: of the node.
        wanted: of the constant.
        behind: only where an operator of this kind reads what the node gives.
    """

    def find(editor: Editor) -> list[str]:
        places = []
        for node in editor.of_type(*kinds):
            followers = {reader.op_type for reader, _ in editor.readers(node.output[0])}
            if behind and behind not in followers:
                continue
            for at in range(len(node.input)):
                value = editor.floats(node, at)
                if value is not None and value.size and wanted(value):
                    places.append(f"{handle(node)}#{at}")
        return places

    return find


def _change(change: Callable[[Array], Array]) -> Callable[[Editor, str], bool]:
    def apply(editor: Editor, place: str) -> bool:
        name, _, at = place.rpartition("#")
        node = editor.node(name)
        value = None if node is None else editor.floats(node, int(at))
        if node is None or value is None:
            return False
        changed = np.asarray(change(value), value.dtype)
        if np.array_equal(changed, value):
            return False
        editor.replace(node, int(at), changed)
        return True

    return apply


def _four(value: Array) -> bool:
    """One number for each of a box's four."""
    return value.size == 4 and value.shape[-1] == 4


def _table(value: Array) -> bool:
    """Rows of boxes: anchors."""
    return value.ndim >= 2 and value.shape[-1] == 4 and value.size > 4


def _plain(value: Array) -> bool:
    """Neither a box's numbers, nor a table, nor a mere 0, 1 or infinity."""
    trivial = np.isin(value, (0, 1, -1)).all() or not np.isfinite(value).all()
    return not _four(value) and not _table(value) and not trivial


def _limit(value: Array) -> bool:
    """A limit of a clip that is neither 0 nor a guard against it."""
    return value.size == 1 and abs(float(value)) > 1e-3 and bool(np.isfinite(value).all())


def _share(value: Array) -> bool:
    """A threshold of scores, between 0 and 1."""
    return value.size == 1 and 1e-3 < float(value.reshape(())) < 1


def _halve_topk(editor: Editor, place: str) -> bool:
    """TopK takes half as many, one at least."""
    node = editor.node(place)
    if node is None:
        return False
    half = editor.add("Div", [node.input[1], editor.constant(2, np.int64)])
    node.input[1] = editor.add("Max", [half, editor.constant(1, np.int64)])
    return True


def _shift_range(editor: Editor, place: str) -> bool:
    """A grid counts from 1."""
    node = editor.node(place)
    if node is None or node.output[0] in editor.outputs:
        return False
    start = editor.value(node.input[0])
    kind = np.int64 if start is None else start.dtype
    for at in (0, 1):
        node.input[at] = editor.add("Add", [node.input[at], editor.constant(1, kind)])
    return True


def _fault(name: str, description: str, change: Callable[[Array], Array], where: Any) -> Operator:
    return Operator(name, "constants", description, _change(change), where, scoped=True)


OPERATORS = (
    _fault(
        "anchors",
        "anchors are 1% too large",
        lambda v: v * 1.01,
        _operands(
            ("Add", "Sub", "Mul", "Gather", "Slice", "Concat", "Expand", "Tile", "Reshape"), _table
        ),
    ),
    _fault(
        "coder_stds",
        "a coder's factors are 2% too large",
        lambda v: v * 1.02,
        _operands(("Mul", "Div"), _four),
    ),
    _fault(
        "coder_means",
        "a coder's offsets are 0.02 too large",
        lambda v: v + 0.02,
        _operands(("Add", "Sub"), _four),
    ),
    _fault(
        "scale_factor",
        "a constant factor (a stride, a weight) is 1% too large",
        lambda v: v * 1.01,
        _operands(("Mul", "Div"), _plain),
    ),
    _fault(
        "scale_term",
        "a constant term is 1% too large",
        lambda v: v * 1.01,
        _operands(("Add", "Sub"), _plain),
    ),
    _fault(
        "exp_clip",
        "what exp gets is clipped at a hundredth",
        lambda v: v * 0.01,
        _operands(("Clip",), _limit, "Exp"),
    ),
    _fault(
        "clip_tightened",
        "a clip's limit is half of what it should be",
        lambda v: v * 0.5,
        _operands(("Clip",), _limit),
    ),
    _fault(
        "score_threshold",
        "a threshold is 0.1 too high",
        lambda v: v + 0.1,
        _operands(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), _share),
    ),
    Operator(
        "topk_k",
        "constants",
        "half as many candidates are kept",
        _halve_topk,
        lambda editor: [handle(node) for node in editor.of_type("TopK")],
    ),
    Operator(
        "grid_from_one",
        "constants",
        "a grid counts from 1",
        _shift_range,
        lambda editor: [handle(node) for node in editor.of_type("Range")],
    ),
)
