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

from pytest_onnxdet.commands.common import CommandError, Model, warn
from pytest_onnxdet.commands.eval_options import COCO, from_config, metrics_of
from pytest_onnxdet.commands.recall import fast_recalls, recalls
from pytest_onnxdet.commands.results import mmdet_result
from pytest_onnxdet.commands.streamed import is_streamed, streamed
from pytest_onnxdet.core.files import is_file
from pytest_onnxdet.data.annotations import (
    Annotations,
    check_classes,
    for_mmdet,
    read_annotations,
)
from pytest_onnxdet.data.datasets import Dataset, DatasetSpec
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.data.photographs import measure_by
from pytest_onnxdet.data.pickled import require_data_alone
from pytest_onnxdet.data.places import file_of, require_local
from pytest_onnxdet.data.spelling import alike
from pytest_onnxdet.data.truth import check_truth
from pytest_onnxdet.data.unopened import why_unopened
from pytest_onnxdet.data.xml_files import misspelt_names, require_xml
from pytest_onnxdet.reference.ties.replace import replaced


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
    require_data_alone(test)
    require_xml(test)
    masks = "segm" in metrics
    annotations = _annotations(test, masks, objects=bool(metrics))
    with contextlib.ExitStack() as stack:
        if annotations:
            test["ann_file"] = str(stack.enter_context(for_mmdet(annotations)))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                built = build_dataset(test)
        except Exception as error:
            raise CommandError(why_unopened(test, error)) from error
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
    names = _mapped(built)
    if hasattr(built, "cat_ids") and len(built.cat_ids) != len(built.CLASSES):
        listed = [str(one.get("name")) for one in getattr(built.coco, "cats", {}).values()]
        reason = alike([name for name in built.CLASSES if name not in names], listed)
        raise CommandError(
            f"{file}: has {len(built.cat_ids)} of the {len(built.CLASSES)} classes "
            f"{', '.join(built.CLASSES[:5])}, ...{f' ({reason})' if reason else ''}: set "
            "data.test.classes to those of the file"
        )
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
        data.notes += check_truth(data) + misspelt_names(built)
    for note in data.notes:
        warn(note)
    return data


def _mapped(built: Any) -> list[str]:
    """The category's name of each label, as the data set has numbered them; none where it has none.

    Of a class with code of its own only the order is judged: its names may be of another kind.
    """
    categories = getattr(getattr(built, "coco", None), "cats", {})
    return [str(categories.get(i, {}).get("name")) for i in getattr(built, "cat_ids", ())]


def _annotations(test: Mapping[str, Any], masks: bool, objects: bool) -> Annotations | None:
    """The annotation file of ``data.test``, checked; None where only mmdet knows its format.

    Raises:
        DataError: something in it cannot be evaluated.
    """
    from mmdet.datasets import DATASETS, CocoDataset

    kind, file = DATASETS.get(str(test.get("type"))), file_of(test, "ann_file")
    own = getattr(kind, "load_annotations", None) is CocoDataset.load_annotations
    if not own or file is None or not is_file(file):
        return None
    folder = Path(test.get("data_root") or "", test.get("img_prefix") or "")
    measure = measure_by(test["pipeline"], folder)
    return read_annotations(file, masks=masks, objects=objects, measure=measure)


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
    arguments = from_config(dataset) | dict(options)
    check_masks(metrics, detections[0])
    # mmdet warns of what it does to mask areas, each time.
    warnings.simplefilter("ignore")
    figures: dict[str, Any] = {}
    if "proposal_fast" in metrics:
        more = {k: v for k, v in arguments.items() if k in ("proposal_nums", "iou_thrs")}
        figures = fast_recalls(dataset, detections, **more)
        metrics = [metric for metric in metrics if metric != "proposal_fast"]
        if not metrics:
            return figures
    if metrics_of(data) == COCO:
        if not is_streamed(dataset):
            return figures | dict(
                dataset.evaluate(_results(data, detections), metric=list(metrics), **arguments)
            )
        prefix = arguments.pop("jsonfile_prefix", None)
        if prefix is not None:
            dataset.format_results(_results(data, detections), jsonfile_prefix=prefix)
        with streamed(dataset, detections):
            return figures | dict(dataset.evaluate([], metric=list(metrics), **arguments))
    results = _results(data, detections)
    if "mAP" in metrics:  # mmdet's VOC evaluation takes one metric at a time
        own = {k: v for k, v in arguments.items() if k != "proposal_nums"}
        figures |= _mean_ap(dataset, results, own)
    if "recall" in metrics:
        objects = [dataset.get_ann_info(i)["bboxes"] for i in range(len(dataset))]
        own = {k: v for k, v in arguments.items() if k not in ("scale_ranges", "logger")}
        figures |= recalls(objects, results, **own)
    return figures


def _mean_ap(dataset: Any, results: list[Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """mmdet's figures of ``mAP``; with ``scale_ranges`` a list in the order of the ranges each.

    mmdet rounds what is a list then, and fails: it is asked for one range at a time.
    """
    if "iou_thr" in arguments:  # mmdet takes one float, or a list
        value = arguments["iou_thr"]
        several = isinstance(value, list | tuple)
        arguments["iou_thr"] = [float(v) for v in value] if several else float(value)
    ranges = arguments.pop("scale_ranges", None)
    if ranges is None:
        return dict(dataset.evaluate(results, metric="mAP", **arguments))
    from mmdet.core import eval_map

    def of_one(*words: Any, **more: Any) -> tuple[float, Any]:
        (mean,), rest = eval_map(*words, **more)
        return float(mean), rest

    figures: dict[str, Any] = {}
    with replaced(eval_map, of_one):
        for one in ranges:
            more = arguments | {"scale_ranges": [tuple(one)]}
            for name, value in dataset.evaluate(results, metric="mAP", **more).items():
                figures.setdefault(name, []).append(value)
    return figures


def _results(data: Dataset, detections: Sequence[Detections], proposals: bool = False) -> list[Any]:
    """In mmdet's format, with several times the memory."""
    classes = None if proposals else len(data.coco.CLASSES)
    return [mmdet_result(image, classes) for image in detections]


def format_results(
    data: Dataset,
    detections: Sequence[Detections],
    options: Mapping[str, Any],
    proposals: bool = False,
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
            _results(data, detections, proposals), jsonfile_prefix=prefix, **arguments
        )
    except OSError as error:
        raise CommandError(
            f"--format-only: {prefix}.*.json cannot be written ({error.strerror}): choose another "
            "place with --eval-options jsonfile_prefix=PATH"
        ) from error
    counts = {kind: len(json.loads(Path(path).read_text())) for kind, path in files.items()}
    return "\n".join(f"{kind}: {files[kind]} ({count} entries)" for kind, count in counts.items())
