"""What mmdet computes on the way to a result, noted while it runs, or given to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pytest_onnxdet.core.patching import overridden


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


class Steps(TorchFunctionMode):
    """Notes some operations of PyTorch's while it is active.

    Attributes:
        interpolated: what ``interpolate`` was given.
        best: the places that each top-k gave.
        above: of each comparison with ``>`` its left side and its result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.interpolated: list[Tensor] = []
        self.best: list[Tensor] = []
        self.above: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is functional.interpolate:
            self.interpolated.append(args[0])
        elif function in (torch.topk, Tensor.topk):
            self.best.append(result[1])
        elif function in (Tensor.__gt__, Tensor.gt, torch.gt):
            self.above.append((args[0], result))
        return result


@contextlib.contextmanager
def steps_of(owner: Any, method: str, note: Callable[[Any, Steps], None]) -> Iterator[None]:
    """For the duration of the block, notes what a method does on the way.

    Args:
        owner: an object.
        method: its method's name; it computes what it always does.
        note: called after each call with the method's result and its steps.
    """
    original = getattr(owner, method)

    def watched(*arguments: Any, **named: Any) -> Any:
        with Steps() as seen:
            result = original(*arguments, **named)
        note(result, seen)
        return result

    with overridden(owner, **{method: watched}):
        yield


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

    with overridden(owner, **{method: watched}):
        yield
