"""What mmdet computes on the way to a result, noted while it runs, or given to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def hooked(
    layers: Sequence[nn.Module], given: Mapping[nn.Module, Sequence[Tensor]] | None = None
) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """For the duration of the block, layers' outputs are noted, call by call.

    Args:
        layers: which; each once.
        given: what a layer gives in place of what it computes, call by call.
    """
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def hook(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        result = output if given is None else given[layer][len(seen[layer])]
        seen[layer].append(result)
        return result

    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def interpolated_in(
    owner: Any, method: str, note: Callable[[Any, Tensor | None], None]
) -> Iterator[None]:
    """For the duration of the block, notes what a method interpolates first.

    Args:
        owner: an object.
        method: its method's name; it computes what it always does.
        note: called after each call with the method's result and the first tensor that it gave
            ``interpolate``; None where it gave none.
    """
    original = getattr(owner, method)

    def watched(*arguments: Any, **named: Any) -> Any:
        with _Interpolations() as seen:
            result = original(*arguments, **named)
        note(result, seen.inputs[0] if seen.inputs else None)
        return result

    vars(owner)[method] = watched
    try:
        yield
    finally:
        del vars(owner)[method]


class _Interpolations(TorchFunctionMode):
    """Notes what is interpolated."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is functional.interpolate:
            self.inputs.append(args[0])
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def called(owner: Any, method: str, note: Callable[..., None]) -> Iterator[None]:
    """For the duration of the block, notes what a method is called with, before it is.

    Args:
        owner: an object.
        method: its method's name; it computes what it always does.
        note: called with the same arguments.
    """
    original = getattr(owner, method)

    def watched(*arguments: Any, **named: Any) -> Any:
        note(*arguments, **named)
        return original(*arguments, **named)

    vars(owner)[method] = watched
    try:
        yield
    finally:
        del vars(owner)[method]
