"""What ``--eval`` and ``--eval-options`` may say, checked before an image is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_onnxdet.commands.common import CommandError, Model, in_words
from pytest_onnxdet.core.numbers import is_number
from pytest_onnxdet.data.datasets import Dataset

COCO = ("bbox", "segm", "proposal")
VOC = ("mAP", "recall")
#: What takes boxes without classes.
OF_PROPOSALS = ("proposal", "proposal_fast", "recall")
_AREAS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
#: What mmdet's ``metric_items`` chooses from, for COCO.
ITEMS = (*_AREAS, "AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
# What a config's `evaluation` says to the training loop, not to evaluate().
HOOK_ONLY = (
    "interval",
    "tmpdir",
    "start",
    "gpu_collect",
    "save_best",
    "rule",
    "dynamic_intervals",
    "by_epoch",
    "out_dir",
    "file_client_args",
    "greater_keys",
    "less_keys",
    "broadcast_bn_buffer",
)


def _is_share(value: Any) -> bool:
    """A number above 0 and not above 1."""
    return is_number(value) and 0 < value <= 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _listed(value: Any, of: Callable[[Any], bool], least: int = 1) -> bool:
    return isinstance(value, list | tuple) and len(value) >= least and all(map(of, value))


def _is_range(value: Any) -> bool:
    return _listed(value, is_number, 2) and len(value) == 2 and 0 <= value[0] < value[1]


_Form = tuple[Callable[[Any], bool], str]
_TEXT: _Form = (lambda v: isinstance(v, str) and v != "", "a text")
#: Which values mmdet's ``evaluate`` takes of each argument, and what to say of others.
_COCO_FORMS: dict[str, _Form] = {
    "iou_thrs": (
        lambda v: _listed(v, _is_share),
        "a list of overlaps above 0, up to 1: iou_thrs=[0.5,0.75]",
    ),
    "proposal_nums": (
        # pycocotools' summary takes the third one, and the two before it.
        lambda v: _listed(v, _is_count, 3),
        "a list of three or more whole numbers, from 1: proposal_nums=[100,300,1000]",
    ),
    "metric_items": (
        lambda v: isinstance(v, str) or _listed(v, lambda item: isinstance(item, str)),
        f"one or a list of {', '.join(ITEMS)}",
    ),
    "classwise": (lambda v: isinstance(v, bool), "True or False"),
    "jsonfile_prefix": _TEXT,
    "logger": _TEXT,
}
_VOC_FORMS: dict[str, _Form] = {
    "iou_thr": (
        lambda v: _is_share(v) or _listed(v, _is_share),
        "an overlap above 0, up to 1, or a list of these: iou_thr=0.5",
    ),
    "proposal_nums": (
        lambda v: _listed(v, _is_count),
        "a list of whole numbers, from 1: proposal_nums=[100,300,1000]",
    ),
    "scale_ranges": (
        lambda v: _listed(v, _is_range),
        "a list of pairs of sides in px: scale_ranges=[(0,32),(32,96)]",
    ),
    "logger": _TEXT,
}


def metrics_of(data: Dataset) -> tuple[str, ...]:
    """The metrics that the data set's class knows."""
    from mmdet.datasets import CocoDataset

    return COCO if isinstance(data.coco, CocoDataset) else VOC


def gives_proposals(model: Model) -> bool:
    """Whether the config's detector is a proposal network, whose boxes have no class."""
    from mmdet.models import DETECTORS
    from mmdet.models.detectors import RPN

    kind = DETECTORS.get(str(model.cfg.model.get("type")))
    return kind is not None and issubclass(kind, RPN)


def check_metrics(data: Dataset, metrics: Sequence[str], proposals: bool = False) -> None:
    """Checks the metrics before anything is run.

    Args:
        data: what `open_data` returned.
        metrics: that are asked for.
        proposals: whether the model gives boxes without classes.

    Raises:
        CommandError: one is of another kind of data set, or of another kind of result.
    """
    known = metrics_of(data)
    if proposals:
        fast = ("proposal_fast",) if known == COCO else ()
        known = tuple(name for name in (*known, *fast) if name in OF_PROPOSALS)
        for metric in metrics:
            if metric not in known:
                raise CommandError(
                    f"--eval {metric}: the model is a proposal network, whose boxes have no "
                    f"classes: use {' or '.join(known)}"
                )
    for metric in metrics:
        if metric == "proposal_fast" and not proposals:
            raise CommandError(
                "--eval proposal_fast: is of proposal networks, whose results have no classes: use "
                "proposal"
            )
        if metric not in known:
            raise CommandError(
                f"--eval {metric}: {data.spec.name} has the metrics {', '.join(known)}"
            )


def check_options(data: Dataset, options: Mapping[str, Any], *, formatting: bool) -> None:
    """Checks the arguments of the data set's method, before anything is run.

    Args:
        data: what `open_data` returned.
        options: ``--eval-options``.
        formatting: whether they are ``format_results``'s and not ``evaluate``'s.

    Raises:
        CommandError: it takes no such argument, or there is no such metric item.
    """
    from mmdet.datasets import VOCDataset

    dataset = data.coco
    if formatting:
        if metrics_of(data) != COCO:
            raise CommandError(f"--format-only: {data.spec.name} has no result format; use --out")
        # It takes any other keyword, and uses none.
        _refuse("--eval-options", options, ["jsonfile_prefix"])
        return
    config = from_config(dataset)
    parameters = inspect.signature(dataset.evaluate).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        names = [name for name in parameters if name not in ("results", "metric")]
        _refuse("--eval-options", options, names)
        _refuse("the config's evaluation", config, names)
    merged = config | dict(options)
    of_voc = type(dataset).evaluate is VOCDataset.evaluate
    if merged.get("scale_ranges") is not None and of_voc:
        raise CommandError("--eval-options scale_ranges: VOCDataset in mmdet does not use them")
    for name, (fits, form) in (_COCO_FORMS if metrics_of(data) == COCO else _VOC_FORMS).items():
        value = merged.get(name)
        if value is None or fits(value):
            continue
        source = "--eval-options" if name in options else "the config's evaluation:"
        raise CommandError(f"{source} {name}: {str(value)[:60] or repr(value)}: give {form}")
    if metrics_of(data) == COCO and (items := merged.get("metric_items")):
        chosen = dict.fromkeys([items] if isinstance(items, str) else items)
        _refuse("--eval-options metric_items", chosen, ITEMS)


def from_config(dataset: Any) -> dict[str, Any]:
    """What the config's ``evaluation`` says of ``evaluate``."""
    known = (*HOOK_ONLY, "metric")
    return {k: v for k, v in dataset.evaluation.items() if k not in known}


def _refuse(source: str, names: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise CommandError(f"{source}: no {in_words(unknown)}; there are {', '.join(known)}")
