"""How many channels a detector's images have."""

from __future__ import annotations

from typing import Any

DEFAULT = 3
#: Pixels of a side that any stem takes.
SIDE = 64


class _Taken(Exception):
    """The first convolution has taken its input."""


def input_channels(detector: Any) -> int:
    """Channels of the images that the detector's stem takes.

    The first convolution says how many it takes, but a stem may rearrange pixels before it
    (YOLOX's takes 12 of 3): a number counts when the stem runs on it as far as its first
    convolution.

    Args:
        detector: one of mmdet's; without a convolution in its backbone: 3.
    """
    from torch import nn

    backbone = getattr(detector, "backbone", None)
    convolutions: list[Any] = [
        module
        for module in (backbone.modules() if isinstance(backbone, nn.Module) else ())
        if isinstance(module, nn.Conv2d)
    ]
    if not isinstance(backbone, nn.Module) or not convolutions:
        return DEFAULT
    first: int = convolutions[0].in_channels
    for count in dict.fromkeys((first, DEFAULT, first // 4, 1, 4)):
        if count and _takes(backbone, convolutions, count):
            return count
    return first


def _takes(backbone: Any, convolutions: list[Any], count: int) -> bool:
    import torch

    def stop(*_: Any) -> None:
        raise _Taken

    hooks = [convolution.register_forward_hook(stop) for convolution in convolutions]
    like = convolutions[0].weight
    try:
        with torch.no_grad():
            backbone(torch.zeros(1, count, SIDE, SIDE, dtype=like.dtype, device=like.device))
    except _Taken:
        return True
    except Exception:  # whatever a stem says of an input that is not its own
        return False
    finally:
        for hook in hooks:
            hook.remove()
    return False
