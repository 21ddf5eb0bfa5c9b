"""Changing a graph in place: constants, new nodes, and outputs that something else takes over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pytest_onnxdet.graph.walk import all_nodes

MARK = "onnxdet_fault"  # begins every name that an operator adds


class Editor:
    """A model that is being changed.

    Nodes may be added in any order: :meth:`finish` sorts them.

    Args:
        model: changed in place.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(all_nodes(model.graph))
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._tensors[node.output[0]] = node.attribute[0].t
        self._added = 0

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs."""
        return [value.name for value in self.model.graph.output]

    @property
    def inputs(self) -> list[str]:
        """The names of the graph's inputs."""
        return [value.name for value in self.model.graph.input]

    def of_type(self, *kinds: str) -> list[onnx.NodeProto]:
        """The nodes of these operators."""
        return [node for node in self.nodes if node.op_type in kinds]

    def node(self, place: str) -> onnx.NodeProto | None:
        """The node of that :func:`handle`."""
        return next((node for node in self.nodes if handle(node) == place), None)

    def value(self, name: str) -> NDArray[Any] | None:
        """A constant's value; None for what is computed."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def floats(self, node: onnx.NodeProto, index: int) -> NDArray[Any] | None:
        """The constant float input of a node, None where there is no such input."""
        if index >= len(node.input):
            return None
        value = self.value(node.input[index])
        return value if value is not None and value.dtype.kind == "f" else None

    def write(self, name: str, value: NDArray[Any]) -> None:
        """Another value of a constant, for all that read it."""
        tensor = self._tensors[name]
        kind = numpy_helper.to_array(tensor).dtype
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, kind), tensor.name))

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        """A new constant; its name."""
        name = self._name("constant")
        array = np.array(value, kind)
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        """A new constant int64 vector; its name."""
        return self.constant(values, np.int64)

    def replace(self, node: onnx.NodeProto, index: int, value: NDArray[Any]) -> None:
        """Another constant for one input of one node: other readers keep the old one."""
        node.input[index] = self.constant(value, value.dtype)

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attrs: Any) -> str:
        """A new node; the name of its output."""
        output = output or self._name(kind.lower())
        name = f"{MARK}_{output}"
        self.model.graph.node.append(helper.make_node(kind, list(inputs), [output], name, **attrs))
        return output

    def take_over(self, output: str) -> str:
        """Frees the name of a graph output for a new node; the name of the good tensor."""
        good = f"{MARK}_good_{output}"
        for node in self.nodes:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    if name == output:
                        names[at] = good
        return good

    def readers(self, name: str) -> list[tuple[onnx.NodeProto, int]]:
        """Nodes that read a tensor, and at which input."""
        return [(n, at) for n in self.nodes for at, one in enumerate(n.input) if one == name]

    def read_instead(self, name: str, other: str) -> bool:
        """Lets every node that is there read another tensor; whether any read this one."""
        readers = self.readers(name)
        for node, at in readers:
            node.input[at] = other
        return bool(readers)

    def follow(self, node: onnx.NodeProto, change: Callable[[str], str]) -> None:
        """Puts something behind a node's first output.

        Args:
            node: one whose first output is no output of the graph.
            change: adds nodes that read the tensor it is given; returns what they make of it.
        """
        good = node.output[0]
        readers = self.readers(good)
        changed = change(good)
        for reader, at in readers:
            reader.input[at] = changed

    def reached(self, start: str) -> set[str]:
        """Tensors whose values depend on those of ``start``; its mere shape does not count."""
        reached = {start}
        for node in self.model.graph.node:
            inner = [name for part in _nested(node) for name in part.input]
            if node.op_type not in ("Shape", "Size") and reached.intersection(
                [*node.input, *inner]
            ):
                reached.update(node.output)
        return reached

    def finish(self) -> None:
        """Brings the nodes into an order in which each comes after what it reads."""
        graph = self.model.graph
        made = {name for node in graph.node for name in node.output}
        waiting = list(graph.node)
        done: set[str] = set()
        ordered: list[onnx.NodeProto] = []
        while waiting:
            later = []
            for node in waiting:
                reads = {*node.input, *(name for part in _nested(node) for name in part.input)}
                own = {name for part in _nested(node) for name in part.output}
                if all(name in done for name in (reads & made) - own):
                    ordered.append(node)
                    done.update(node.output)
                else:
                    later.append(node)
            if len(later) == len(waiting):
                raise ValueError(f"nodes read each other: {later[0].name}")
            waiting = later
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del graph.node[:]
        graph.node.extend(copies)

    def _name(self, kind: str) -> str:
        self._added += 1
        return f"{MARK}_{kind}_{self._added}"


def handle(node: onnx.NodeProto) -> str:
    """What tells a node from others: its name, or what it gives where it has none."""
    return node.name or next(iter(node.output), "")


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value; texts as str."""
    for one in node.attribute:
        if one.name == name:
            value = helper.get_attribute_value(one)
            return value.decode() if isinstance(value, bytes) else value
    return default


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Gives an attribute a value; None removes it."""
    others = [one for one in node.attribute if one.name != name]
    copies = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in others]
    del node.attribute[:]
    node.attribute.extend(copies)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def become(node: onnx.NodeProto, kind: str, **attrs: Any) -> None:
    """Makes another operator of a node with one input, with these attributes alone."""
    node.op_type = kind
    del node.input[1:]
    del node.attribute[:]
    for name, value in attrs.items():
        node.attribute.append(helper.make_attribute(name, value))


def _nested(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for one in node.attribute:
        for graph in (one.g, *one.graphs):
            yield from all_nodes(graph)
