"""Known faults, put into a graph on purpose: a suite that misses one is not to be trusted.

Each :class:`Operator` is a mistake that an exporter, a runtime or an upgrade could make. Applied to
a good graph it yields a mutant, which the suite's checks must refuse.
"""

from __future__ import annotations

from pytest_onnxdet.verify.mutants import (
    attributes,
    batching,
    constants,
    decoding,
    inputs,
    interface,
    masks,
    slots,
    suppression,
    weights,
)
from pytest_onnxdet.verify.mutants.operator import Operator

#: Groups in the order of a network: what comes in, the layers, what is made of them, what goes out.
_GROUPS = (
    inputs,
    weights,
    attributes,
    constants,
    decoding,
    suppression,
    batching,
    slots,
    masks,
    interface,
)

__all__ = ["Operator", "operators"]


def operators() -> tuple[Operator, ...]:
    """Every known fault."""
    return tuple(operator for group in _GROUPS for operator in group.OPERATORS)
