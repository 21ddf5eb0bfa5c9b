"""What of mmcv's and mmdet's layers is computed otherwise for the time of an export.

Compiled operators are replaced by tensor code, and methods that compute with sizes in Python by
ones whose sizes stay in the graph. Both sides of each pair are compared in ``tests/families``. All
is undone when the export ends: PyTorch's side always runs mmdet's own code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_onnxdet.families.ops import criss_cross, deform, sizes, windows
from pytest_onnxdet.models.functions import attribute, functions_as

#: Autograd functions by their place, and the tensor code that is called in their place.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "mmcv.ops.deform_conv.DeformConv2dFunction": deform.deform_conv2d,
    "mmcv.ops.modulated_deform_conv.ModulatedDeformConv2dFunction": deform.modulated_deform_conv2d,
}
#: Methods and functions by their place, and what makes another one of each.
METHODS: Mapping[str, Callable[[Any], Callable[..., Any]]] = {
    "mmcv.ops.cc_attention.NEG_INF_DIAG": criss_cross.negative_diagonal,
    "mmcv.ops.deform_conv.DeformConv2d.forward": deform.plain_forward,
    "mmcv.ops.merge_cells.BaseMergeCell._resize": sizes.merge_resize,
    "mmcv.cnn.bricks.conv2d_adaptive_padding.Conv2dAdaptivePadding.forward": (
        sizes.convolution_same
    ),
    "mmcv.cnn.bricks.transformer.AdaptivePadding.forward": sizes.adaptive_padding,
    "mmdet.models.utils.transformer.AdaptivePadding.forward": sizes.adaptive_padding,
    "mmdet.models.necks.fpn_carafe.FPN_CARAFE.tensor_add": sizes.cut_sum,
    "mmdet.models.backbones.swin.ShiftWindowMSA.forward": windows.shifted_window_attention,
    "torch.nn.functional.adaptive_max_pool2d": sizes.adaptive_max_pool2d,
    "torch.nn.functional.interpolate": sizes.interpolate,
}
#: Which of them need an opset: called with the opset, they raise `NeedsOpset`.
NEEDS: Mapping[str, Callable[[int], None]] = {
    name: deform.require_grid_sample
    for name in FUNCTIONS
    if name.startswith(("mmcv.ops.deform_conv.", "mmcv.ops.modulated_deform_conv."))
}


@contextlib.contextmanager
def replaced(opset: int) -> Iterator[None]:
    """For the duration of the block, layers that do not trace compute what they do in tensor code.

    Args:
        opset: what is exported to. An operator that needs a later one raises `NeedsOpset` when it
            is called.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(functions_as(_codes(opset)))
        for place, make in METHODS.items():
            owner, name = _owner(place)
            stack.enter_context(attribute(owner, name, make(getattr(owner, name))))
        yield


def _owner(place: str) -> tuple[Any, str]:
    """What has a method or a function, and the name it has there."""
    from pytest_onnxdet.families.classes import resolve

    owner, _, name = place.rpartition(".")
    return resolve(owner), name


def _codes(opset: int) -> dict[type, Callable[..., Any]]:
    """The autograd functions of :data:`FUNCTIONS` with their tensor code."""
    from pytest_onnxdet.families.classes import resolve

    def code(place: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if place in NEEDS:
                NEEDS[place](opset)
            return FUNCTIONS[place](*args, **kwargs)

        return call

    return {resolve(place): code(place) for place in FUNCTIONS}
