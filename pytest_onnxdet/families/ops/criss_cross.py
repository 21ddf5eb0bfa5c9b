"""Attention along the row and the column of a cell (CCNet, arXiv:1811.11721), at any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def negative_diagonal(original: Any) -> Any:
    """mmcv's ``NEG_INF_DIAG``, which keeps a cell from being counted twice, of a traced size."""
    del original

    def diagonal(n: Any, device: Any) -> Tensor:
        at = torch.arange(n, device=device)
        return torch.where(at[:, None] == at[None], -float("inf"), 0.0)

    return diagonal
