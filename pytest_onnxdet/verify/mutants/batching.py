"""Faults that a batch shows and an image alone does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pytest_onnxdet.verify.mutants.editing import MARK, Editor
from pytest_onnxdet.verify.mutants.operator import Operator

PER_SLOT = ("dets", "labels", "masks", "mask_scores")
Rows = Callable[[Editor, str], str]


def _count(editor: Editor, name: str) -> str:
    """The batch size, a scalar."""
    return editor.add("Gather", [editor.add("Shape", [name]), editor.constant(0, np.int64)])


def _range(editor: Editor, name: str) -> str:
    zero, one = editor.constant(0, np.int64), editor.constant(1, np.int64)
    return editor.add("Range", [zero, _count(editor, name), one])


def _clamped(last: int) -> Rows:
    """Rows from ``last`` on repeat it."""
    return lambda e, name: e.add("Min", [_range(e, name), e.constant(last, np.int64)])


def _rolled(editor: Editor, name: str) -> str:
    one = editor.constant(1, np.int64)
    following = editor.add("Add", [_range(editor, name), one])
    return editor.add("Mod", [following, _count(editor, name)])


def _reversed(editor: Editor, name: str) -> str:
    one = editor.constant(1, np.int64)
    last = editor.add("Sub", [_count(editor, name), one])
    return editor.add("Sub", [last, _range(editor, name)])


def _outputs(rows: Rows) -> Callable[[Editor, str], bool]:
    def apply(editor: Editor, _: str) -> bool:
        there = [name for name in PER_SLOT if name in editor.outputs]
        for output in there:
            good = editor.take_over(output)
            editor.add("Gather", [good, rows(editor, good)], output, axis=0)
        return bool(there)

    return apply


def _shapes(rows: Rows) -> Callable[[Editor, str], bool]:
    def apply(editor: Editor, _: str) -> bool:
        other = f"{MARK}_shapes"
        if not editor.read_instead("image_shape", other):
            return False
        editor.add("Gather", ["image_shape", rows(editor, "image_shape")], other, axis=0)
        return True

    return apply


def _one_output(rows: Rows, output: str) -> Callable[[Editor, str], bool]:
    def apply(editor: Editor, _: str) -> bool:
        if output not in editor.outputs:
            return False
        good = editor.take_over(output)
        editor.add("Gather", [good, rows(editor, good)], output, axis=0)
        return True

    return apply


def _fault(
    name: str, description: str, change: Callable[[Editor, str], bool], min_batch: int = 2
) -> Operator:
    return Operator(name, "batch", description, change, min_batch=min_batch)


OPERATORS = (
    _fault("batch_order", "images of a batch get each other's detections", _outputs(_reversed)),
    _fault("batch_rolled", "each image of a batch gets the next one's", _outputs(_rolled)),
    _fault("rows_repeat_first", "every image gets the first one's", _outputs(_clamped(0))),
    _fault("rows_repeat_second", "from the third image on the second's", _outputs(_clamped(1)), 3),
    _fault("first_shape", "image_shape of the first image counts for all", _shapes(_clamped(0))),
    _fault("shapes_rolled", "image_shape is the next image's", _shapes(_rolled)),
    _fault("labels_rolled", "labels are the next image's", _one_output(_rolled, "labels")),
    _fault("masks_rolled", "masks are the next image's", _one_output(_rolled, "masks")),
)
