"""Whether a module does at inference what a class of mmdet or mmcv does, judged by its class.

A lowering repeats what certain methods of a class compute. It holds for that class and for every
subclass that overrides none of these methods: a head that only trains otherwise is taken. A class
that merely has the same name is another class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.errors import StageError

if TYPE_CHECKING:
    from torch import nn

#: A class, or where it lies: ``"mmdet.models.RetinaHead"``, imported when it is asked for.
Kind = type | str
_MISSING = object()


class UnsupportedPart(StageError):
    """A detector uses a part that has no lowering; the message names it and what is supported."""

    stage = "lowering"


class NotCalibratedError(UnsupportedPart):
    """Nobody says what makes a detector's random weights detect something; it may well lower."""

    stage = "build"


def resolve(kind: Kind) -> Any:
    """The class; of a text it is imported.

    Raises:
        ImportError, AttributeError: there is none there.
    """
    if isinstance(kind, str):
        module, _, name = kind.rpartition(".")
        return getattr(import_module(module), name)
    return kind


def name_of(kind: Kind) -> str:
    """What a class is called, without importing it."""
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def names_of(kinds: Iterable[Kind]) -> str:
    """The classes' names, for a message."""
    return ", ".join(map(name_of, kinds))


def nearest(own: type, kinds: Iterable[Kind]) -> type | None:
    """Of some classes the one that comes first among a class's bases, itself included."""
    wanted = {resolve(kind) for kind in kinds}
    return next((base for base in own.__mro__ if base in wanted), None)


def overridden(thing: Any, base: type, methods: Iterable[str]) -> str | None:
    """What of a class's methods an object has otherwise, as ``Base.method``; None: nothing.

    Args:
        thing: an object of a subclass of ``base``; what was put on the object itself counts, too.
        base: the class.
        methods: names. One that ``base`` lacks may not be there either.
    """
    for name in methods:
        expected = inspect.getattr_static(base, name, _MISSING)
        own = name in vars(thing)
        if own or inspect.getattr_static(type(thing), name, _MISSING) is not expected:
            return f"{base.__name__}.{name}"
    return None


def objection(thing: Any, kinds: Iterable[Kind], methods: Iterable[str]) -> str | None:
    """Why an object does not do what one of these classes does, in words; None: it does.

    Args:
        thing: a module, or another object such as a box coder.
        kinds: the classes.
        methods: those of their methods that count.
    """
    kinds, own = tuple(kinds), type(thing)
    base = nearest(own, kinds)
    if base is None:
        alike = own.__name__ in map(name_of, kinds)
        other = f"{own.__module__}.{own.__name__} is another class; " if alike else ""
        return f"{other}{names_of(kinds)} {'has' if len(kinds) == 1 else 'have'} one"
    method = overridden(thing, base, methods)
    if method is None:
        return None
    return f"{own.__name__} overrides {method}, which inference uses and the lowering repeats"


def at_path(root: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The modules at a dotted path: none where it leads nowhere, each of a list of modules."""
    from torch import nn

    node = root
    for name in filter(None, path.split(".")):
        node = getattr(node, name, None)
    if node is None:
        return
    if isinstance(node, nn.ModuleList):
        yield from ((f"{path}.{place}", module) for place, module in enumerate(node))
    else:
        yield path, node


# Layers that call an operator of mmcv's that ONNX's default domain lacks or that no lowering makes.
OPERATORS = tuple(
    f"mmcv.ops.{name}"
    for name in (
        "MultiScaleDeformableAttention",
        "PSAMask",
        "RoIPool",
    )
)


def refuse_operators(detector: nn.Module, besides: Iterable[Kind] = ()) -> None:
    """Refuses a detector with a layer that needs an operator without a lowering.

    Args:
        detector: whose layers are looked at.
        besides: layers that its family lowers.

    Raises:
        UnsupportedPart: with the layer's path and class, and how many more there are.
    """
    known = set(map(resolve, besides))
    kinds = tuple(kind for kind in map(resolve, OPERATORS) if kind not in known)
    matches = [
        (path, module) for path, module in detector.named_modules() if isinstance(module, kinds)
    ]
    if matches:
        path, module = matches[0]
        others = f" (and {len(matches) - 1} more)" if len(matches) > 1 else ""
        raise UnsupportedPart(
            f"{type(detector).__name__} has a {type(module).__name__} at {path}{others}: "
            "its operator has no lowering; use a config without it"
        )
