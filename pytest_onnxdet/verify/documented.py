"""Whether PyTorch itself reaches the documented AP: if not, look at checkpoint, data and set-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.verify.checks import CheckFailed

#: Documents round to 0.1 points; what a rounded figure can hide comes on top.
ALLOWED = 0.001 + 0.0005


def check_documented(spec: ModelSpec, metrics: Mapping[str, Any], *, case_id: str) -> None:
    """PyTorch's AP is the spec's, within 0.1 points.

    Args:
        spec: its ``expected_ap`` by kind, on the 0-1 scale; nothing is checked where it is empty.
        metrics: what `check_accuracy` gave, of the whole data set.
        case_id: begins the message.

    Raises:
        CheckFailed: it is not.
    """
    lines = []
    for kind, wanted in spec.expected_ap.items():
        got = metrics.get(f"{kind}_mAP_torch")
        if got is None or not abs(got - wanted) <= ALLOWED:
            told = "was not computed" if got is None else f"is {got:.4f}"
            lines.append(f"{kind} AP of PyTorch {told}, documented is {wanted:.3f}")
    if lines:
        raise CheckFailed(
            f"{case_id}: {'; '.join(lines)}\nlook at: the checkpoint, the data set and the "
            "installed mmdet, mmcv and torch; the exported graph plays no part in this",
            metrics,
            "accuracy",
        )
