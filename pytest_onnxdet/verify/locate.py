"""Which node of a graph is the first to give what PyTorch does not compute.

A graph and the model that it was exported from do not share their tensors' names, and an exporter
fuses, splits and reshapes. But nearly every tensor of a graph is one that PyTorch computes, too. A
node is suspect where none of what it leads to is; the first such node is named, with what PyTorch
computed in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx

from pytest_onnxdet.core.fingerprint import Fingerprint
from pytest_onnxdet.graph.cut import up_to
from pytest_onnxdet.graph.walk import all_nodes
from pytest_onnxdet.verify.nodes import NodeBlame, Runner, blame_of, tensors

_WINDOW = 256
#: How many times the noise a fingerprint may be off, and how much of a tensor's norm at least.
_TIMES, _SHARE = 8.0, 2e-6
#: What gives indices that hang on values. Other integers are sizes, which PyTorch does not compute.
_CHOOSING = frozenset({"NonMaxSuppression", "TopK", "ArgMax", "ArgMin", "NonZero"})


class Known(Protocol):
    """A tensor of the reference's; :class:`pytest_onnxdet.reference.op_trace.Computed` is one."""

    @property
    def mark(self) -> Fingerprint:
        """Its fingerprint."""
        ...

    @property
    def noise(self) -> float:
        """How far rounding moves the fingerprint's sums."""
        ...


@dataclass(frozen=True)
class Suspect:
    """The first node that gives what the reference does not compute.

    Attributes:
        node: it, with its first output.
        last: which of the reference's tensors is the last one that the graph has before it, in the
            order of computation; -1: there is none.
    """

    node: NodeBlame
    last: int


def suspect(model: onnx.ModelProto, run: Runner, known: Sequence[Known]) -> Suspect | None:
    """The first node after which nothing is what the reference computes.

    Args:
        model: the graph; its main graph is looked at.
        run: runs it on the inputs that the reference had.
        known: the reference's tensors.

    Returns:
        None where every output comes of tensors that the reference computes.
    """
    marks = dict(_marks(model, run))
    matches = _matches(marks, known)
    outputs = {value.name for value in model.graph.output}
    sure = {n for n in matches if n in outputs or not (marks[n].plain or marks[n].exact)}
    alive = _leading_to(model, sure)
    last = -1
    sizes: Suspect | None = None
    for node in model.graph.node:
        names = [name for name in node.output if name]
        for name in names:
            if name in sure:
                last = matches[name]
        if node.op_type == "Constant" or any(n in matches or n in alive for n in names):
            continue
        one = Suspect(blame_of(model, names[0]), last)
        # Of a node that fails there is no mark.
        if node.op_type in _CHOOSING or any(n not in marks or not marks[n].exact for n in names):
            return one
        sizes = sizes or one
    return sizes


def nearest(mark: Fingerprint, known: Sequence[Known], after: int) -> int | None:
    """Which of the reference's tensors a wrong one stands for: the most alike of its size.

    Args:
        mark: of the wrong tensor.
        known: the reference's.
        after: only later ones come into question.
    """
    later = [n for n in range(after + 1, len(known)) if known[n].mark.size == mark.size]
    return min(later, key=lambda n: known[n].mark.distance(mark), default=None)


def _matches(marks: Mapping[str, Fingerprint], known: Sequence[Known]) -> dict[str, int]:
    """Which of the reference's tensors each of a graph's is, where it is one."""
    by_size: dict[int, list[int]] = {}
    for number, one in enumerate(known):
        by_size.setdefault(one.mark.size, []).append(number)
    matches = {}
    for name, mark in marks.items():
        same = [n for n in by_size.get(mark.size, ()) if alike(known[n], mark)]
        if same:
            matches[name] = same[0]
    return matches


def alike(known: Known, mark: Fingerprint) -> bool:
    """Whether a tensor is the reference's, as far as rounding lets one tell."""
    allowed = max(_TIMES * known.noise, _SHARE * known.mark.norm)
    return known.mark.distance(mark) <= (0.0 if known.mark.exact and mark.exact else allowed)


def _marks(model: onnx.ModelProto, run: Runner) -> Iterator[tuple[str, Fingerprint]]:
    """The fingerprints of a graph's tensors, up to the node that fails, if one does."""
    names = tensors(model)
    for start in range(0, len(names), _WINDOW):
        window = names[start : start + _WINDOW]
        marks, whole = _window(model, run, window)
        yield from marks
        if not whole:
            return


def _window(
    model: onnx.ModelProto, run: Runner, names: Sequence[str]
) -> tuple[list[tuple[str, Fingerprint]], bool]:
    """The fingerprints of these tensors, and whether all could be computed."""
    try:
        values = run(up_to(model, names), names)
    except Exception:  # a runtime's own classes: all that is computed later fails, too
        if len(names) == 1:
            return [], False
        half = len(names) // 2
        marks, whole = _window(model, run, names[:half])
        if not whole:
            return marks, False
        more, _ = _window(model, run, names[half:])
        return marks + more, False
    arrays = [(name, np.asarray(values[name])) for name in names]
    return [(n, Fingerprint.of(a)) for n, a in arrays if a.dtype.kind in "fiub"], True


def _leading_to(model: onnx.ModelProto, names: set[str]) -> set[str]:
    """All tensors whose values one of these is computed of, and they themselves."""
    leading = set(names)
    for node in reversed(model.graph.node):
        if node.op_type not in ("Shape", "Size") and any(n in leading for n in node.output):
            leading.update(node.input)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):  # they read what is around them
                    leading.update(name for one in all_nodes(inner) for name in one.input)
    return leading
