"""What PyTorch computes on the way: the result of every operator, as a fingerprint.

A deploy model is run eagerly, and each operator that PyTorch dispatches leaves what it gave, the
module that called it, and the line. Fingerprints stay small: a full-size detector's tensors do not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_onnxdet.core.fingerprint import Fingerprint

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__))


@dataclass(frozen=True)
class Computed:
    """A tensor that PyTorch computed.

    Attributes:
        number: its place among all tensors of the run.
        operator: what gave it, ``aten.convolution``.
        module: path of the innermost module, ``detector.backbone.conv1``; empty outside of any.
        line: where in the module's code, ``file.py:line``; empty where only PyTorch's own is.
        mark: its fingerprint.
        noise: how far rounding moves the fingerprint's sums.
    """

    number: int
    operator: str
    module: str
    line: str
    mark: Fingerprint
    noise: float = 0.0


def computed(model: nn.Module, inputs: Sequence[NDArray[Any]]) -> list[Computed]:
    """Every tensor that a model computes, in order, with the noise that one rounding makes of it.

    It is run twice: once as it is, and once with every pixel moved by one step of float32, as a
    runtime moves it whose first operation rounds otherwise.

    Args:
        model: deterministic, and doing the same whatever its inputs are.
        inputs: arrays; those of float32 are moved.
    """
    first = _run(model, inputs)
    moved = [
        np.nextafter(one, np.inf, dtype=one.dtype) if one.dtype == np.float32 else one
        for one in inputs
    ]
    second = _run(model, moved)
    if [one.operator for one in first] != [one.operator for one in second]:
        return first
    pairs = zip(first, second, strict=True)
    return [replace(a, noise=a.mark.distance(b.mark)) for a, b in pairs]


def value(model: nn.Module, inputs: Sequence[NDArray[Any]], number: int) -> NDArray[Any]:
    """One of the tensors of :func:`computed`, whole.

    Raises:
        IndexError: there is no such tensor.
    """
    held: list[NDArray[Any]] = []

    def hold(tensor: Tensor, at: int) -> None:
        if at == number:
            held.append(tensor.detach().numpy().copy())

    _run(model, inputs, hold)
    return held[0]


def _run(
    model: nn.Module,
    inputs: Sequence[NDArray[Any]],
    each: Callable[[Tensor, int], None] | None = None,
) -> list[Computed]:
    with torch.no_grad(), _paths(model) as stack, _Recorder(stack, each) as recorder:
        model(*(torch.from_numpy(one) for one in inputs))
    return recorder.seen


class _Recorder(TorchDispatchMode):
    """Keeps what every operator gives."""

    def __init__(self, stack: list[str], each: Callable[[Tensor, int], None] | None) -> None:
        super().__init__()
        self.seen: list[Computed] = []
        self._stack, self._each, self._count = stack, each, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor) and not one.is_complex():
                self._keep(str(func.overloadpacket), one)
        return result

    def _keep(self, operator: str, tensor: Tensor) -> None:
        number, self._count = self._count, self._count + 1
        if self._each is not None:
            self._each(tensor, number)
            return
        module = self._stack[-1] if self._stack else ""
        mark = Fingerprint.of(tensor.detach().numpy())
        self.seen.append(Computed(number, operator, module, _line(), mark))


@contextmanager
def _paths(model: nn.Module) -> Iterator[list[str]]:
    """For the block, the paths of the modules that run, innermost last."""
    names = {id(module): name for name, module in model.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        stack.append(names.get(id(module), stack[-1] if stack else ""))

    def leave(*_: Any) -> None:
        stack.pop()

    register = torch.nn.modules.module
    before = register.register_module_forward_pre_hook(enter)
    after = register.register_module_forward_hook(leave, always_call=True)
    try:
        yield stack
    finally:
        before.remove()
        after.remove()


def _line() -> str:
    """The innermost line of code that is not PyTorch's."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_TORCH) and file != _HERE and not file.startswith("<"):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
