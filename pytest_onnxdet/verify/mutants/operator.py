"""What an operator is: one kind of fault, and where in a graph it can be put."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from pytest_onnxdet.verify.mutants.editing import Editor

#: The place of a fault that a graph can have once.
WHOLE = ""


def whole(editor: Editor) -> Sequence[str]:
    """The only place of an operator that changes the graph as a whole."""
    return (WHOLE,)


@dataclass(frozen=True)
class Operator:
    """One kind of fault.

    Attributes:
        name: as ``--onnxdet-selftest`` reports it.
        group: what part of a graph it changes.
        description: what the graph does wrong.
        change: puts the fault into one place; False where it does not fit there.
        where: the names of the places, nodes as a rule.
        raw: whether the graph of the raw outputs, exported alike, has the same fault in the same
            place.
        scoped: likewise, of places inside a module of the network, ``/neck/Resize``: what is not of
            one, ``/Exp_1``, is another node there.
        caught_by: which check is to see it: ``parity``, or ``export`` for what no run shows.
        min_batch: the fault shows at this batch size and above.
    """

    name: str
    group: str
    description: str
    change: Callable[[Editor, str], bool]
    where: Callable[[Editor], Sequence[str]] = whole
    raw: bool = False
    scoped: bool = False
    caught_by: str = "parity"
    min_batch: int = 1

    def in_raw(self, place: str) -> bool:
        """Whether the graph of the raw outputs has the fault, too, if it has the place."""
        return self.raw or (self.scoped and "/" in place.strip("/"))

    def places(self, model: onnx.ModelProto) -> tuple[str, ...]:
        """Where the fault might be put into a graph."""
        return tuple(dict.fromkeys(self.where(Editor(model))))

    def applies(self, model: onnx.ModelProto) -> bool:
        """Whether the fault has a place in a graph."""
        return self.apply(model) is not None

    def apply(self, model: onnx.ModelProto, place: str | None = None) -> onnx.ModelProto | None:
        """A copy with the fault, or None when it does not fit into this graph.

        Args:
            model: stays as it is.
            place: one of :meth:`places`; None: the first that takes the fault.
        """
        for at in self.places(model) if place is None else (place,):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            editor = Editor(copy)
            if self.change(editor, at):
                editor.finish()
                return copy
        return None
