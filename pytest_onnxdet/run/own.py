"""A user's own detector, without a line of code: from a config and a checkpoint to specs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.models.own import OWN, OwnModel, model_name
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.run.cases import SettingsError

if TYPE_CHECKING:
    import mmcv

    from pytest_onnxdet.data.datasets import DatasetSpec


def specs_of(own: OwnModel, cache: Path) -> tuple[ModelSpec, DatasetSpec]:
    """The specs of a user's own detector.

    Args:
        own: what is known of it.
        cache: the cache folder; data that are no COCO json of its classes are written there as one.

    Raises:
        BuildError: the config or the checkpoint cannot be read.
        DataError: the annotations or images cannot be read.
        SettingsError: it is not known what to run it on.
    """
    from pytest_onnxdet.data import converted
    from pytest_onnxdet.data.datasets import BOXES_ALONE, IMAGES_ALONE
    from pytest_onnxdet.data.masks import has_masks
    from pytest_onnxdet.data.places import require_local
    from pytest_onnxdet.models.build import load_config

    name = own.name or model_name(own.config)
    spec = ModelSpec(
        name,
        str(own.config),
        profile=OWN,
        weights=own.checkpoint,
        dataset=_data_name(name),
        tolerances=own.tolerances,
        known_failures=own.known_failures,
    )
    cfg = load_config(spec)
    require_local(cfg.data.test, str(own.config), files=own.images is None is own.annotations)
    classes = _classes(own, cfg, cache)
    dataset, masks = _dataset(own, cfg, name, classes, cache / "data"), has_masks(cfg.model)
    if masks and dataset.kind != IMAGES_ALONE and not converted.has_outlines(dataset.annotations):
        dataset = replace(dataset, kind=BOXES_ALONE)
    return replace(spec, classes=dataset.classes, masks=masks), dataset


def _data_name(model: str) -> str:
    """The name of a model's data set, which no other one has."""
    return f"{OWN}:{model}"


def _classes(own: OwnModel, cfg: mmcv.Config, cache: Path) -> tuple[str, ...]:
    """The checkpoint's class names, else the config's; else a number each."""
    from pytest_onnxdet.models.build import checkpoint_meta
    from pytest_onnxdet.models.names import NamesError, class_count, known_names, numbered

    meta: dict[str, Any] = {}
    if own.checkpoint is not None:
        meta = checkpoint_meta(own.checkpoint, cache / "checkpoints")
    try:
        names, named = known_names(meta, cfg), bool(meta.get("CLASSES"))
    except NamesError as error:
        raise SettingsError(f"{own.config}: {error}") from error
    whose = f"{own.checkpoint}: meta.CLASSES" if named else f"{own.config}: data.test.classes"
    odd = [name for name in names if not isinstance(name, str) or names.count(name) > 1]
    if odd:
        raise SettingsError(f"{whose} holds {odd[0]!r}: give texts, each once")
    count = class_count(cfg.model)
    if names and count is not None and len(names) != count:
        if not named and cfg.data.test.get("classes") is None:  # nobody said so: mmdet's class does
            return numbered(count)
        listed = ", ".join(map(repr, names[:4])) + (", ..." if len(names) > 4 else "")
        remedy = "is it this config's checkpoint?" if named else "correct either of them"
        raise SettingsError(
            f"{whose} has {len(names)} names ({listed}), and the heads of {own.config} have "
            f"num_classes={count}: {remedy}"
        )
    return names or numbered(count or 0)


def _dataset(
    own: OwnModel, cfg: mmcv.Config, name: str, classes: tuple[str, ...], folder: Path
) -> DatasetSpec:
    from pytest_onnxdet.data import converted
    from pytest_onnxdet.data.datasets import IMAGES_ALONE, DatasetSpec

    if own.annotations is not None and own.annotations.is_dir():
        file = converted.voc_as_coco(own.annotations, classes, folder, own.images)
        return DatasetSpec(_data_name(name), file, own.images or own.annotations, classes=classes)
    if own.annotations is not None:
        file = converted.subset_as_coco(own.annotations, classes, folder)
        return DatasetSpec(
            _data_name(name), file, own.images or own.annotations.parent, classes=classes
        )
    if own.images is not None:
        file = converted.folder_as_coco(own.images, classes, folder)
        return DatasetSpec(_data_name(name), file, own.images, kind=IMAGES_ALONE, classes=classes)
    return _of_config(own, cfg, name, classes, folder)


def _of_config(
    own: OwnModel, cfg: mmcv.Config, name: str, classes: tuple[str, ...], folder: Path
) -> DatasetSpec:
    """The config's ``data.test``."""
    from pytest_onnxdet.data import converted
    from pytest_onnxdet.data.datasets import DatasetSpec
    from pytest_onnxdet.data.places import file_of
    from pytest_onnxdet.models.wrapped import TAKEN_FROM

    test: Any = cfg.data.test
    if (taken := cfg.data.get(TAKEN_FROM, {})).get("count", 1) > 1:
        raise SettingsError(
            f"model {name!r}: {own.config}: data.test is {taken['wrapper']} of {taken['count']} "
            "data sets: set it to one, or give --onnxdet-annotations and --onnxdet-images"
        )
    annotations = file_of(test, "ann_file")
    images = Path(test.get("data_root") or "", test.get("img_prefix") or "")
    for what, path in (("ann_file", annotations), ("img_prefix", images)):
        if path is None or not path.exists():
            raise SettingsError(
                f"model {name!r}: nothing to run it on: {own.config}: data.test.{what} is {path}, "
                "which is not there: give --onnxdet-images DIR, with --onnxdet-annotations for "
                "AP, or put the files there"
            )
    assert annotations is not None
    if test.get("type") == "CocoDataset":
        file = converted.subset_as_coco(annotations, classes, folder)
        return DatasetSpec(_data_name(name), file, images, classes=classes)
    file = converted.mmdet_as_coco({**test, "classes": list(classes)}, folder)
    return DatasetSpec(_data_name(name), file, images, classes=classes)
