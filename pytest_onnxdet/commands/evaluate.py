"""The config's test data set, and mmdet's evaluation of results on it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_onnxdet.commands.common import CommandError, Model, in_words, warn
from pytest_onnxdet.commands.recall import recalls
from pytest_onnxdet.commands.results import mmdet_result
from pytest_onnxdet.commands.streamed import is_streamed, streamed
from pytest_onnxdet.data.annotations import (
    Annotations,
    check_classes,
    for_mmdet,
    read_annotations,
)
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.datasets import Dataset, DatasetSpec
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.photographs import measure_by
from pytest_onnxdet.data.places import require_local
from pytest_onnxdet.models.checkpoint import one_line

COCO = ("bbox", "segm", "proposal")
VOC = ("mAP", "recall")
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


def open_data(model: Model, metrics: Sequence[str] = ()) -> Dataset:
    """The config's ``data.test``, seen through its test pipeline; says what is odd about it.

    Args:
        model: the config.
        metrics: ``--eval``: what the annotations have to hold follows from them.

    Raises:
        CommandError: it is missing, broken, or has other classes than its annotations.
        DataError: an annotation or an image is not as it has to be.
    """
    from mmdet.datasets import build_dataset

    test: Any = copy.deepcopy(model.cfg.data.test)
    samples = _samples(model.cfg.data, test.pop("samples_per_gpu", None))
    test["test_mode"] = True
    require_local(test, str(model.path))
    masks = "segm" in metrics
    annotations = _annotations(test, masks, objects=bool(metrics))
    with contextlib.ExitStack() as stack:
        if annotations:
            test["ann_file"] = str(stack.enter_context(for_mmdet(annotations)))
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
    file = Path(annotations.path if annotations else built.ann_file)
    infos = built.data_infos
    if not isinstance(infos, list | tuple) or not all("filename" in info for info in infos):
        raise CommandError(
            f"{file}: is no list of images with a filename, which a {type(built).__name__} reads: "
            "correct data.test.type"
        )
    built.ann_file = str(file)
    if not len(built):
        raise CommandError(f"{file}: lists no images: nothing to test")
    if not built.CLASSES:
        raise CommandError(f"{model.path}: data.test names no classes: set data.test.classes")
    if hasattr(built, "cat_ids") and len(built.cat_ids) != len(built.CLASSES):
        raise CommandError(
            f"{file}: has {len(built.cat_ids)} of the {len(built.CLASSES)} classes "
            f"{', '.join(built.CLASSES[:5])}, ...: set data.test.classes to those of the file"
        )
    names = _mapped(built)
    if annotations or sorted(names) == sorted(built.CLASSES):
        check_classes(file, names, built.CLASSES)
    spec = DatasetSpec(
        type(built).__name__, file, Path(built.img_prefix or "."), classes=tuple(built.CLASSES)
    )
    evaluation = model.cfg.get("evaluation") or {}
    if not isinstance(evaluation, Mapping):
        raise CommandError(f"{model.path}: evaluation is {evaluation!r}: give a table, dict(...)")
    built.evaluation = dict(evaluation)
    built.samples_per_gpu = samples
    notes = annotations.notes if annotations else ()
    data = Dataset(spec, built, test["pipeline"], notes)
    data.check_images(masks)
    if metrics and not annotations:
        _check_truth(data)
    for note in data.notes:
        warn(note)
    return data


def _mapped(built: Any) -> list[str]:
    """The category's name of each label, as the data set has numbered them; none where it has none.

    Of a class with code of its own only the order is judged: its names may be of another kind.
    """
    categories = getattr(getattr(built, "coco", None), "cats", {})
    return [str(categories.get(i, {}).get("name")) for i in getattr(built, "cat_ids", ())]


def _check_truth(data: Dataset) -> None:
    """Reads every image's objects, of which mmdet makes no use before it evaluates.

    Raises:
        DataError: those of an image cannot be read.
    """
    for index in range(len(data)):
        try:
            info = data.coco.get_ann_info(index)
            for name in ("bboxes", "labels"):
                if not isinstance(info[name], np.ndarray):
                    raise TypeError(f"{name} is a {type(info[name]).__name__}, not an array")
        except Exception as error:
            raise DataError(
                f"{data.spec.annotations}: the objects of {data.path(index).name} cannot be read "
                f"({one_line(error)}): correct its annotation"
            ) from error


def _annotations(test: Mapping[str, Any], masks: bool, objects: bool) -> Annotations | None:
    """The annotation file of ``data.test``, checked; None where only mmdet knows its format.

    Raises:
        DataError: something in it cannot be evaluated.
    """
    from mmdet.datasets import DATASETS, CocoDataset

    kind, file = DATASETS.get(str(test.get("type"))), test.get("ann_file")
    own = getattr(kind, "load_annotations", None) is CocoDataset.load_annotations
    root = test.get("data_root") or ""
    if not own or not isinstance(file, str) or not Path(root, file).is_file():
        return None
    folder = Path(root, test.get("img_prefix") or "")
    measure = measure_by(test["pipeline"], folder)
    return read_annotations(Path(root, file), masks=masks, objects=objects, measure=measure)


def _samples(data: Any, own: Any) -> int:
    """Images per batch, as the config wants them.

    Args:
        data: the config's. mmdet's ``compat_cfg`` has moved what the file says of ``test`` into
            ``test_dataloader``.
        own: what ``data.test`` still says: ``--cfg-options`` are merged after the move.
    """
    loader = data.get("test_dataloader") or {}
    samples = loader.get("samples_per_gpu", 1) if own is None else own
    if not isinstance(samples, int) or samples < 1:
        raise CommandError(f"data.test.samples_per_gpu: {samples!r}: give a number, 1 or more")
    return samples


def metrics_of(data: Dataset) -> tuple[str, ...]:
    """The metrics that the data set's class knows."""
    from mmdet.datasets import CocoDataset

    return COCO if isinstance(data.coco, CocoDataset) else VOC


def check_metrics(data: Dataset, metrics: Sequence[str]) -> None:
    """Raises `CommandError` for a metric of another kind of data set, before anything is run."""
    known = metrics_of(data)
    for metric in metrics:
        if metric == "proposal_fast":
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
    dataset = data.coco
    if formatting:
        if metrics_of(data) != COCO:
            raise CommandError(f"--format-only: {data.spec.name} has no result format; use --out")
        # It takes any other keyword, and uses none.
        _refuse("--eval-options", options, ["jsonfile_prefix"])
        return
    config = _from_config(dataset)
    parameters = inspect.signature(dataset.evaluate).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        names = [name for name in parameters if name not in ("results", "metric")]
        _refuse("--eval-options", options, names)
        _refuse("the config's evaluation", config, names)
    if metrics_of(data) != COCO:
        return
    for name in ("iou_thrs", "proposal_nums"):
        value = (config | dict(options)).get(name, [])
        if value is not None and not isinstance(value, list | tuple):
            raise CommandError(f"--eval-options {name}: {value!r}: give a list, {name}=[{value}]")
    if items := (config | dict(options)).get("metric_items"):
        chosen = dict.fromkeys([items] if isinstance(items, str) else items)
        _refuse("--eval-options metric_items", chosen, ITEMS)


def _from_config(dataset: Any) -> dict[str, Any]:
    """What the config's ``evaluation`` says of ``evaluate``."""
    known = (*HOOK_ONLY, "metric")
    return {k: v for k, v in dataset.evaluation.items() if k not in known}


def _refuse(source: str, names: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise CommandError(f"{source}: no {in_words(unknown)}; there are {', '.join(known)}")


def check_masks(metrics: Sequence[str] | None, detections: Detections) -> None:
    """Raises `CommandError` where masks are to be evaluated and an image's detections have none."""
    if "segm" in (metrics or ()) and detections.masks is None:
        raise CommandError("--eval segm: the model gives no masks: leave segm out")


def evaluate(
    data: Dataset,
    detections: Sequence[Detections],
    metrics: Sequence[str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """mmdet's figures for every metric.

    Args:
        data: what `open_data` returned.
        detections: one entry for each of its images.
        metrics: one or several.
        options: arguments of the data set's ``evaluate``; they win over the config's.
    """
    dataset = data.coco
    arguments = _from_config(dataset) | dict(options)
    check_masks(metrics, detections[0])
    # mmdet warns of what it does to mask areas, each time.
    warnings.simplefilter("ignore")
    if metrics_of(data) == COCO:
        if not is_streamed(dataset):
            return dict(
                dataset.evaluate(_results(data, detections), metric=list(metrics), **arguments)
            )
        prefix = arguments.pop("jsonfile_prefix", None)
        if prefix is not None:
            dataset.format_results(_results(data, detections), jsonfile_prefix=prefix)
        with streamed(dataset, detections):
            return dict(dataset.evaluate([], metric=list(metrics), **arguments))
    results = _results(data, detections)
    figures: dict[str, Any] = {}
    if "mAP" in metrics:  # mmdet's VOC evaluation takes one metric at a time
        own = {k: v for k, v in arguments.items() if k != "proposal_nums"}
        figures |= dataset.evaluate(results, metric="mAP", **own)
    if "recall" in metrics:
        objects = [dataset.get_ann_info(i)["bboxes"] for i in range(len(dataset))]
        own = {k: v for k, v in arguments.items() if k not in ("scale_ranges", "logger")}
        figures |= recalls(objects, results, **own)
    return figures


def _results(data: Dataset, detections: Sequence[Detections]) -> list[Any]:
    """In mmdet's format, with several times the memory."""
    return [mmdet_result(image, len(data.coco.CLASSES)) for image in detections]


def format_results(
    data: Dataset, detections: Sequence[Detections], options: Mapping[str, Any]
) -> str:
    """Detections in the data set's own format; says where they are.

    Raises:
        CommandError: the files cannot be written.
    """
    arguments = dict(options)
    # mmdet's default is a temporary folder that is gone when the process ends.
    prefix = str(arguments.pop("jsonfile_prefix", "results"))
    try:
        files, _ = data.coco.format_results(
            _results(data, detections), jsonfile_prefix=prefix, **arguments
        )
    except OSError as error:
        raise CommandError(
            f"--format-only: {prefix}.*.json cannot be written ({error.strerror}): choose another "
            "place with --eval-options jsonfile_prefix=PATH"
        ) from error
    counts = {kind: len(json.loads(Path(path).read_text())) for kind, path in files.items()}
    return "\n".join(f"{kind}: {files[kind]} ({count} entries)" for kind, count in counts.items())
