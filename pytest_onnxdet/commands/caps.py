"""The caps of a config that only graphs know, read where MMDetection's tool reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.commands.common import CommandError

if TYPE_CHECKING:
    import mmcv
    from torch import nn

CANDIDATES, PER_CLASS = "deploy_nms_pre", "max_output_boxes_per_class"
_OF_PROPOSALS = "rpn."


def take_caps(cfg: mmcv.Config) -> dict[str, int]:
    """The caps that a config asks for, by name; those of proposals begin with ``rpn.``.

    ``max_output_boxes_per_class`` may be in ``nms``, where MMDetection's tool reads it, or beside
    it. It is taken out of ``nms``, whose entries PyTorch hands to its own suppression.

    Args:
        cfg: before its detector is built, as detectors keep what they are built with. Changed.

    Raises:
        CommandError: a cap is no whole number.
    """
    test_cfg = _table(cfg.model.get("test_cfg"), "")
    own = _table(test_cfg.get("rcnn"), ".rcnn") or test_cfg
    proposals = _table(test_cfg.get("rpn"), ".rpn")
    asked: dict[str, Any] = {}
    for part, prefix in ((own, ""), (proposals, _OF_PROPOSALS)):
        nms = part.get("nms")
        # What is no table is refused, by its name, when the detector is lowered.
        inner = nms.pop(PER_CLASS, None) if isinstance(nms, dict) else None
        asked[prefix + CANDIDATES] = part.get(CANDIDATES)
        asked[prefix + PER_CLASS] = part.get(PER_CLASS) if inner is None else inner
    numbers = {name: _number(name, value) for name, value in asked.items() if value is not None}
    return {name: number for name, number in numbers.items() if number > 0}


def _table(value: Any, place: str) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CommandError(f"model.test_cfg{place} is {value!r}: give a table, dict(...)")
    return value


def _number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise CommandError(f"test_cfg.{name}: {value!r}: give a whole number; -1 stands for no cap")
    return value


def without_effect(
    detector: nn.Module, caps: Mapping[str, int], options: Mapping[str, Any], raw: bool
) -> Iterator[tuple[str, str]]:
    """Settings that do nothing to this detector's graph: each with the reason.

    Args:
        detector: the model.
        caps: what `take_caps` returned.
        options: ``--cfg-options``. Configs carry settings that mean nothing to their model; only
            what somebody asked for is worth a word.
        raw: whether the graph ends before post-processing.
    """
    from pytest_onnxdet.families import UnsupportedPart
    from pytest_onnxdet.families.registry import builtin_families

    try:
        family = builtin_families().of(detector)
    except UnsupportedPart:
        return  # the export refuses it, and says why
    for name in caps:
        if raw:
            yield name, "with --skip-postprocess nothing is selected"
        elif name.startswith(_OF_PROPOSALS) and family.uncapped is None:
            yield (
                name,
                "proposals are not capped beyond rpn.nms_pre and rpn.max_per_img; "
                f"test_cfg.rcnn.{name.removeprefix(_OF_PROPOSALS)} caps the second stage",
            )
        elif family.uncapped is not None:
            yield name, family.uncapped
    for name, why in family.ignored.items():
        if f"model.test_cfg.{name}" in options and not raw:
            yield name, why
