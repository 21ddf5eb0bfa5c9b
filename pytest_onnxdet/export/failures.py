"""Why a detector does not export, in words: an operator and its module, or a size nobody takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.models.checkpoint import one_line

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.export.options import ExportOptions

#: Multiples that networks ask of a side, and how much larger a size is tried to tell a size that is
#: too small from one that is no such multiple.
MULTIPLES, LARGER = (2, 4, 8, 16, 32, 64, 128), (128, 256, 512)
STEP, MAX = 32, 1024
_NODES = ("node", "n")  # what the exporter calls a node while it translates it


@contextlib.contextmanager
def quiet_tracer() -> Iterator[None]:
    """For the duration of the block, the exporter does not print a graph that it fails on."""
    import torch

    native: Any = torch._C
    # The exporter switches the log on by itself, and its "verbose" does not switch it off.
    before = getattr(native, "_jit_onnx_log", None)
    if before is None:
        yield
        return
    native._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        native._jit_onnx_log = before


def cause(error: BaseException | None, kind: type[Any]) -> Any:
    """The first error of that kind in an error's chain, or None."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def reason(error: BaseException, module: nn.Module, example: Any, options: ExportOptions) -> str:
    """Why tracing failed, on one line.

    Args:
        error: what the exporter raised.
        module: what was traced.
        example: its inputs.
        options: which graph was asked for.
    """
    size = _size_reason(module, example, options)
    if size is not None:
        return size
    where = failing_module(error)
    text = one_line(error)
    return f"{text} (in {where}): use another layer there" if where else text


def failing_module(error: BaseException) -> str | None:
    """The module whose operator was being translated when an error was raised: path and class."""
    one: BaseException | None = error
    while one is not None:
        trace, scope = one.__traceback__, ""
        while trace is not None:
            for name in _NODES:
                node: Any = trace.tb_frame.f_locals.get(name)
                if hasattr(node, "scopeName"):
                    scope = node.scopeName() or scope
            trace = trace.tb_next
        parts = [part.split("::") for part in scope.split("/") if "::" in part]
        steps = [part[-1] for part in parts if part[-1]]
        if steps:
            # A step in a list of modules is named with the list: layer1.0 below layer1.
            path = [
                s
                for s, after in zip(steps, [*steps[1:], ""], strict=True)
                if not after.startswith(f"{s}.")
            ]
            return f"{'.'.join(path)}, a {parts[-1][0].rpartition('.')[2]}"
        one = one.__cause__ or one.__context__
    return None


def _size_reason(module: nn.Module, example: Any, options: ExportOptions) -> str | None:
    """What sizes the detector takes, where PyTorch itself does not take this one."""
    import torch

    images = example[0]

    def failure(size: tuple[int, int]) -> Exception | None:
        inputs = (images.new_zeros(len(images), images.shape[1], *size), torch.tensor([size]))
        rows = (inputs[0], inputs[1].repeat(len(images), 1))[: len(example)]
        try:
            with torch.no_grad():
                module(*rows)
        except Exception as error:  # a network that takes no such size says so in many ways
            return error
        return None

    refused = failure(options.size)
    if refused is None:
        return None
    height, width = options.size
    advice = _advice(options.size, lambda size: failure(size) is None)
    if advice is None:  # then it is not the size
        return None
    return (
        f"PyTorch takes no images of {height} x {width} px, either ({one_line(refused)}): {advice}"
    )


def _advice(size: tuple[int, int], takes: Callable[[tuple[int, int]], bool]) -> str | None:
    """Which size to ask for instead; None: no other one helps."""
    height, width = size
    if any(takes((height + more, width + more)) for more in LARGER):
        for side in range(STEP, MAX + 1, STEP):
            if takes((side, side)):
                return (
                    f"it is too small: give --shape (a spec's static_shape) {side} {side} or more"
                )
    base = LARGER[0]
    for multiple in MULTIPLES:
        up = [-(-side // multiple) * multiple for side in size]
        if takes((up[0] + base, up[1] + base)):
            return (
                f"both sides have to be multiples of {multiple}: give --shape (a spec's "
                f"static_shape) {up[0]} {up[1]}"
            )
    return None
