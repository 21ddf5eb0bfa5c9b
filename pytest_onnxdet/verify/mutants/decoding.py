"""Faults in boxes: coordinates, conventions of corners, and the border that they are clipped at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from pytest_onnxdet.verify.mutants.editing import MARK, Editor, become
from pytest_onnxdet.verify.mutants.operator import Operator


def _clips(editor: Editor) -> list[tuple[onnx.NodeProto, int, int]]:
    """Nodes that limit something seen in the image by the image's size: (node, what, limit)."""
    seen, size = editor.reached("input"), editor.reached("image_shape")
    clips = []
    for node in editor.model.graph.node:
        if node.op_type in ("Min", "Max") and len(node.input) == 2:
            for what, limit in ((0, 1), (1, 0)):
                a, b = node.input[what], node.input[limit]
                if a in seen and b in size and b not in seen:
                    clips.append((node, what, limit))
    return clips


def _remove_clip(editor: Editor, _: str) -> bool:
    clips = _clips(editor)
    for node, what, _limit in clips:
        value = node.input[what]
        become(node, "Identity")
        node.input[0] = value
    return bool(clips)


def _other_limit(kind: str, amount: float) -> Callable[[Editor, str], bool]:
    def change(editor: Editor, _: str) -> bool:
        clips = _clips(editor)
        for node, _what, limit in clips:
            node.input[limit] = editor.add(kind, [node.input[limit], editor.constant(amount)])
        return bool(clips)

    return change


def _on_dets(change: Callable[[Editor, str], str]) -> Callable[[Editor, str], bool]:
    """Puts something behind the detections; it gives the tensor that becomes the output."""

    def apply(editor: Editor, _: str) -> bool:
        if "dets" not in editor.outputs:
            return False
        good = editor.take_over("dets")
        editor.add("Identity", [change(editor, good)], "dets")
        return True

    return apply


def _used(editor: Editor, good: str, changed: str) -> str:
    """Of ``changed`` the slots that hold a detection, of which the score is above 0."""
    score = editor.add("Slice", [good, editor.ints(4), editor.ints(5), editor.ints(2)])
    filled = editor.add("Greater", [score, editor.constant(0.0)])
    return editor.add("Where", [filled, changed, good])


def add_to(amount: Sequence[float]) -> Callable[[Editor, str], bool]:
    """Adds to x1, y1, x2, y2 and score of every detection."""

    def change(editor: Editor, good: str) -> str:
        return _used(editor, good, editor.add("Add", [good, editor.constant(amount)]))

    return _on_dets(change)


def scaled(factors: Sequence[float]) -> Callable[[Editor, str], bool]:
    """Multiplies x1, y1, x2, y2 and score."""
    return _on_dets(lambda e, good: e.add("Mul", [good, e.constant(factors)]))


def half_precision(columns: Sequence[bool]) -> Callable[[Editor, str], bool]:
    """Rounds these of x1, y1, x2, y2 and score to fp16."""

    def change(editor: Editor, good: str) -> str:
        short = editor.add("Cast", [good], to=onnx.TensorProto.FLOAT16)
        back = editor.add("Cast", [short], to=onnx.TensorProto.FLOAT)
        return editor.add("Where", [editor.constant(columns, np.bool_), back, good])

    return _on_dets(change)


def _swapped(editor: Editor, good: str) -> str:
    return editor.add("Gather", [good, editor.ints(1, 0, 3, 2, 4)], axis=2)


def _rounded(editor: Editor, good: str) -> str:
    whole = editor.add("Round", [good])
    boxes = editor.constant([True] * 4 + [False], np.bool_)
    return editor.add("Where", [boxes, whole, good])


def _ignore_image_shape(editor: Editor, _: str) -> bool:
    """Takes the padded size for each image's own, as the stock export does."""
    padded = f"{MARK}_padded"
    if not editor.read_instead("image_shape", padded):
        return False
    whole = editor.add("Shape", ["input"])
    size = editor.add("Slice", [whole, editor.ints(2), editor.ints(4)])
    count = editor.add("Shape", ["image_shape"])
    editor.add("Expand", [size, count], padded)
    return True


def _swap_image_shape(editor: Editor, _: str) -> bool:
    swapped = f"{MARK}_swapped"
    if not editor.read_instead("image_shape", swapped):
        return False
    editor.add("Gather", ["image_shape", editor.ints(1, 0)], swapped, axis=1)
    return True


def _fault(name: str, description: str, change: Callable[[Editor, str], bool]) -> Operator:
    return Operator(name, "decoding", description, change)


OPERATORS = (
    _fault("no_clip", "boxes are not clipped to the image", _remove_clip),
    _fault("half_clip", "boxes are clipped to half the image", _other_limit("Mul", 0.5)),
    _fault("clip_minus_one", "boxes are clipped a pixel early", _other_limit("Sub", 1.0)),
    _fault("padded_shape", "image_shape is ignored", _ignore_image_shape),
    _fault("swapped_shape", "image_shape is taken for (w, h)", _swap_image_shape),
    _fault("swap_xy", "x and y are swapped", _on_dets(_swapped)),
    _fault(
        "box_shift",
        "boxes are half a pixel off, the legacy corner convention",
        add_to([0.5, 0.5, 0.5, 0.5, 0]),
    ),
    _fault("plus_one_width", "boxes are a pixel wider and higher", add_to([0, 0, 1, 1, 0])),
    _fault("box_scale", "boxes are 0.1% too large", scaled([1.001] * 4 + [1])),
    _fault("box_rounded", "boxes are at whole pixels", _on_dets(_rounded)),
    _fault("box_fp16", "boxes are rounded to fp16", half_precision([True] * 4 + [False])),
)
