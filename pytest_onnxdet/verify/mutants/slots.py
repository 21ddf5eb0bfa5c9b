"""Faults in the slots that a graph gives: order, emptiness, cuts, scores and labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pytest_onnxdet.verify.mutants.batching import PER_SLOT
from pytest_onnxdet.verify.mutants.decoding import add_to, half_precision, scaled
from pytest_onnxdet.verify.mutants.editing import Editor
from pytest_onnxdet.verify.mutants.operator import Operator

Change = Callable[[Editor, str], bool]


def drop_first(editor: Editor, _: str) -> bool:
    """Moves every slot one up; the last becomes empty."""
    for output in PER_SLOT:
        if output not in editor.outputs:
            continue
        good = editor.take_over(output)
        rank = {"dets": 3, "masks": 4}.get(output, 2)
        fill = -1 if output == "labels" else 0.0
        end = editor.ints(np.iinfo(np.int64).max)
        rest = editor.add("Slice", [good, editor.ints(1), end, editor.ints(1)])
        pads = [0] * rank + [0, 1] + [0] * (rank - 2)
        value = editor.constant(fill, np.int64 if output == "labels" else np.float32)
        editor.add("Pad", [rest, editor.ints(*pads), value], output)
    return "labels" in editor.outputs


def reverse(axis: int, *outputs: str) -> Change:
    """These outputs the other way round along an axis."""

    def change(editor: Editor, _: str) -> bool:
        there = [name for name in outputs if name in editor.outputs]
        for output in there:
            good = editor.take_over(output)
            start, end = editor.ints(-1), editor.ints(np.iinfo(np.int64).min)
            editor.add("Slice", [good, start, end, editor.ints(axis), start], output)
        return bool(there)

    return change


def _slots(editor: Editor, name: str) -> str:
    """How many slots a tensor has, an int64 vector of one."""
    shape = editor.add("Shape", [name])
    return editor.add("Slice", [shape, editor.ints(1), editor.ints(2)])


def _cut(editor: Editor, _: str) -> bool:
    """Keeps 60% of the slots."""
    for output in PER_SLOT:
        if output not in editor.outputs:
            continue
        good = editor.take_over(output)
        six, ten = editor.ints(6), editor.ints(10)
        part = editor.add("Div", [editor.add("Mul", [_slots(editor, good), six]), ten])
        editor.add("Slice", [good, editor.ints(0), part, editor.ints(1)], output)
    return "labels" in editor.outputs


def _chosen(index: Callable[[Editor, str], str]) -> Change:
    """Slots in another order, by the indices that are made of a tensor's slots."""

    def change(editor: Editor, _: str) -> bool:
        for output in PER_SLOT:
            if output in editor.outputs:
                good = editor.take_over(output)
                editor.add("Gather", [good, index(editor, good)], output, axis=1)
        return "labels" in editor.outputs

    return change


def _range(editor: Editor, name: str) -> str:
    zero, one = editor.constant(0, np.int64), editor.constant(1, np.int64)
    count = editor.add("Squeeze", [_slots(editor, name), editor.ints(0)])
    return editor.add("Range", [zero, count, one])


def _first_twice(editor: Editor, name: str) -> str:
    one, zero = editor.constant(1, np.int64), editor.constant(0, np.int64)
    before = editor.add("Sub", [_range(editor, name), one])
    return editor.add("Max", [before, zero])


def _second_first(editor: Editor, name: str) -> str:
    """1, 0, 2, 3, ...; of a single slot the slot."""
    one = editor.constant(1, np.int64)
    every = _range(editor, name)
    low = editor.add("LessOrEqual", [every, one])
    swapped = editor.add("Where", [low, editor.add("Sub", [one, every]), every])
    count = editor.add("Squeeze", [_slots(editor, name), editor.ints(0)])
    return editor.add("Min", [swapped, editor.add("Sub", [count, one])])


def _relabel(change: Callable[[Editor, str], str]) -> Change:
    """Other labels; empty slots stay empty."""

    def apply(editor: Editor, _: str) -> bool:
        if "labels" not in editor.outputs:
            return False
        good = editor.take_over("labels")
        blank = editor.add("Less", [good, editor.constant(0, np.int64)])
        editor.add("Where", [blank, good, change(editor, good)], "labels")
        return True

    return apply


def _next(editor: Editor, good: str) -> str:
    return editor.add("Add", [good, editor.constant(1, np.int64)])


def _swap_classes(editor: Editor, good: str) -> str:
    """Classes 0 and 1 changed places."""
    one = editor.constant(1, np.int64)
    first = editor.add("LessOrEqual", [good, one])
    return editor.add("Where", [first, editor.add("Sub", [one, good]), good])


def _empty_as_zero(editor: Editor, _: str) -> bool:
    if "labels" not in editor.outputs:
        return False
    good = editor.take_over("labels")
    editor.add("Max", [good, editor.constant(0, np.int64)], "labels")
    return True


def ghosts(score: float) -> Change:
    """Empty slots carry a box."""

    def change(editor: Editor, _: str) -> bool:
        if not {"dets", "labels"} <= set(editor.outputs):
            return False
        good, labels = editor.take_over("dets"), editor.take_over("labels")
        editor.add("Identity", [labels], "labels")
        blank = editor.add("Less", [labels, editor.constant(0, np.int64)])
        wide = editor.add("Unsqueeze", [blank, editor.ints(2)])
        editor.add("Where", [wide, editor.constant([1, 1, 5, 5, score]), good], "dets")
        return True

    return change


def _fault(name: str, description: str, change: Change) -> Operator:
    return Operator(name, "slots", description, change)


OPERATORS = (
    _fault("ghosts", "empty slots carry a box of score 0.9", ghosts(0.9)),
    _fault("ghosts_faint", "empty slots carry a box of score 0", ghosts(0.0)),
    _fault("dropped", "each image's best detection is lost", drop_first),
    _fault("doubled", "each image's best detection is there twice", _chosen(_first_twice)),
    _fault("cut", "60% of the slots are kept", _cut),
    _fault("ascending", "detections are sorted from worst to best", reverse(1, *PER_SLOT)),
    _fault("second_first", "the two best detections changed places", _chosen(_second_first)),
    _fault("label_shift", "labels are one too high", _relabel(_next)),
    _fault("label_swap", "classes 0 and 1 changed places", _relabel(_swap_classes)),
    _fault("empty_as_zero", "empty slots have label 0", _empty_as_zero),
    _fault("score_shift", "scores are 0.001 too high", add_to([0, 0, 0, 0, 1e-3])),
    _fault("score_scale", "scores are 0.1% too low", scaled([1, 1, 1, 1, 0.999])),
    _fault("score_fp16", "scores are rounded to fp16", half_precision([False] * 4 + [True])),
)
