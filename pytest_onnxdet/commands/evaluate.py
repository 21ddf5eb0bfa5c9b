"""The config's test data set, and mmdet's evaluation of results on it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_onnxdet.commands.common import CommandError, Model
from pytest_onnxdet.commands.recall import recalls
from pytest_onnxdet.data.datasets import Dataset, DatasetSpec
from pytest_onnxdet.data.evaluation import compiled_matching

COCO = ("bbox", "segm", "proposal", "proposal_fast")
VOC = ("mAP", "recall")
# What a config's `evaluation` says to the training loop, not to evaluate().
HOOK_ONLY = ("interval", "tmpdir", "start", "gpu_collect", "save_best", "rule", "dynamic_intervals")


def open_data(model: Model) -> Dataset:
    """The config's ``data.test``, seen through its test pipeline.

    Raises:
        CommandError: it is missing, broken, or has other classes than its annotations.
    """
    from mmdet.datasets import build_dataset

    test: Any = copy.deepcopy(model.cfg.data.test)
    if not isinstance(test, dict):
        raise CommandError(f"{model.path}: data.test is a list: test one data set at a time")
    test.pop("samples_per_gpu", None)
    test["test_mode"] = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            built = build_dataset(test)
    except Exception as error:
        raise CommandError(
            f"{test.get('ann_file')}: the test data cannot be opened "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): set "
            "data.test.ann_file and data.test.img_prefix in the config, or with --cfg-options"
        ) from error
    if not hasattr(built, "data_infos"):
        raise CommandError(f"{model.path}: data.test: a {type(built).__name__} cannot be tested")
    if not len(built):
        raise CommandError(f"{built.ann_file}: lists no images: nothing to test")
    if hasattr(built, "cat_ids") and len(built.cat_ids) != len(built.CLASSES):
        raise CommandError(
            f"{built.ann_file}: has {len(built.cat_ids)} of the {len(built.CLASSES)} classes "
            f"{', '.join(built.CLASSES[:5])}, ...: set data.test.classes to those of the file"
        )
    spec = DatasetSpec(
        type(built).__name__,
        Path(built.ann_file),
        Path(built.img_prefix or "."),
        classes=tuple(built.CLASSES),
    )
    built.evaluation = dict(model.cfg.get("evaluation") or {})
    return Dataset(spec, built, test["pipeline"])


def metrics_of(data: Dataset) -> tuple[str, ...]:
    """The metrics that the data set's class knows."""
    from mmdet.datasets import CocoDataset

    return COCO if isinstance(data.coco, CocoDataset) else VOC


def check_metrics(data: Dataset, metrics: Sequence[str]) -> None:
    """Raises `CommandError` for a metric of another kind of data set, before anything is run."""
    known = metrics_of(data)
    for metric in metrics:
        if metric not in known:
            raise CommandError(
                f"--eval {metric}: {data.spec.name} has the metrics {', '.join(known)}"
            )


def evaluate(
    data: Dataset, results: list[Any], metrics: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """mmdet's figures for every metric.

    Args:
        data: what `open_data` gave.
        results: in mmdet's format, in the order of the images.
        metrics: one or several.
        options: arguments of the data set's ``evaluate``; they win over the config's.
    """
    dataset = data.coco
    given = {k: v for k, v in dataset.evaluation.items() if k not in HOOK_ONLY and k != "metric"}
    given |= dict(options)
    if "segm" in metrics and not isinstance(results[0], tuple):
        raise CommandError("--eval segm: the model gives no masks: leave segm out")
    figures: dict[str, Any] = {}
    try:
        # mmdet warns of what it does to mask areas, each time.
        warnings.simplefilter("ignore")
        if metrics_of(data) == COCO:
            with compiled_matching():
                return dict(dataset.evaluate(results, metric=list(metrics), **given))
        if "mAP" in metrics:  # mmdet's VOC evaluation takes one metric at a time
            own = {k: v for k, v in given.items() if k != "proposal_nums"}
            figures |= dataset.evaluate(results, metric="mAP", **own)
        if "recall" in metrics:
            objects = [dataset.get_ann_info(i)["bboxes"] for i in range(len(dataset))]
            own = {k: v for k, v in given.items() if k not in ("scale_ranges", "logger")}
            figures |= recalls(objects, results, **own)
    except (TypeError, KeyError) as error:
        raise CommandError(
            f"--eval-options: {data.spec.name}'s evaluate() does not take this: {error}"
        ) from error
    return figures


def format_results(data: Dataset, results: list[Any], options: Mapping[str, Any]) -> str:
    """The results in the data set's own format; says where they are.

    Raises:
        CommandError: the data set has no format, or the files cannot be written.
    """
    if metrics_of(data) != COCO:
        raise CommandError(f"--format-only: {data.spec.name} has no result format; use --out")
    given = dict(options)
    # mmdet's default is a temporary folder that is gone when the process ends.
    prefix = str(given.pop("jsonfile_prefix", "results"))
    try:
        files, _ = data.coco.format_results(results, jsonfile_prefix=prefix, **given)
    except TypeError as error:
        raise CommandError(
            f"--eval-options: format_results() does not take this: {error}"
        ) from error
    except OSError as error:
        raise CommandError(
            f"--format-only: {prefix}.*.json cannot be written ({error.strerror}): choose another "
            "place with --eval-options jsonfile_prefix=PATH"
        ) from error
    counts = {kind: len(json.loads(Path(path).read_text())) for kind, path in files.items()}
    return "\n".join(f"{kind}: {files[kind]} ({count} entries)" for kind, count in counts.items())
