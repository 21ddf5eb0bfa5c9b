"""A spec's config: where it lies, how it is read, and what is brought up to date in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.files import no_file
from pytest_onnxdet.models.checkpoint import BuildError, one_line
from pytest_onnxdet.models.config_file import of_mmdet_3, read_config_file
from pytest_onnxdet.models.custom_imports import import_custom
from pytest_onnxdet.models.file_clients import read_from_disk
from pytest_onnxdet.models.pipeline_channels import require_deviations
from pytest_onnxdet.models.pipeline_values import require_values
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision
from pytest_onnxdet.models.wrapped import TAKEN_FROM, SeveralDataSets, inner

if TYPE_CHECKING:
    import mmcv

#: What only configs of MMDetection 3 have, at the top and in the model.
_OF_3 = ("test_dataloader", "test_evaluator", "optim_wrapper", "vis_backends")
#: Sections that mmdet 2.0 to 2.2 kept beside `model`, and 2.28 still reads there.
BESIDE = ("train_cfg", "test_cfg")


def config_root() -> Path:
    """The folder of mmdet's documented configs: in the wheel, or beside a source checkout."""
    ensure_torchvision()
    import mmdet

    package = Path(mmdet.__file__).parent
    for root in (package / ".mim" / "configs", package.parent / "configs"):
        if root.is_dir():
            return root
    raise BuildError(f"{package}: no configs beside this mmdet: install the mmdet wheel or sdist")


def config_path(spec: ModelSpec) -> Path:
    """Where the spec's config file lies; raises `BuildError` where there is none."""
    path = Path(spec.config)
    if not path.is_absolute():
        path = config_root() / path
    if path.is_dir():
        raise BuildError(f"{path}: a folder, not a config file (model {spec.name!r})")
    if kind := no_file(path):
        raise BuildError(f"{path}: {kind}, not a config file: write it to a file first")
    if not path.is_file():
        raise BuildError(
            f"{path}: no such config file (model {spec.name!r}): give an absolute path, or one "
            f"below {config_root()}"
        )
    return path


def load_config(spec: ModelSpec) -> mmcv.Config:
    """The spec's config with its overrides, brought up to date as mmdet's test tool does.

    Raises:
        BuildError: the file is missing, does not parse, or does not describe a detector.
    """
    ensure_torchvision()
    from mmdet.utils import compat_cfg

    path = config_path(spec)
    cfg = _with_values(read_config_file(path), path)
    _refuse_mmdet_3(cfg, path)
    import_custom(cfg.get("custom_imports"), path)
    require_model(cfg, path)
    _move_into_model(cfg, path)
    try:
        # A copy: merging takes `_delete_` out of the tables that it merges.
        merge(cfg, copy.deepcopy(dict(spec.overrides)))
    except Exception as error:
        raise BuildError(
            f"{path}: the overrides of model {spec.name!r} do not fit this config: "
            f"{one_line(error)}: correct the overrides"
        ) from error
    require_model(cfg, path)
    _take_test_data_out(cfg, path)
    require_pipeline(cfg, path)
    read_from_disk(cfg, path)
    # compat_cfg looks at what training needs; a config that is for testing has none of it.
    for split in ("train", "val"):
        cfg.data.setdefault(split, {})
    if "runner" not in cfg and "total_epochs" not in cfg:
        cfg.total_epochs = 0
    try:
        return compat_cfg(cfg)
    except Exception as error:
        raise BuildError(
            f"{path}: not a config of mmdet 2: {one_line(error)}: update it"
        ) from error


def _take_test_data_out(cfg: mmcv.Config, path: Path) -> None:
    """Puts the one data set in place of a wrapper or a list in ``data.test``.

    Raises:
        BuildError: there are several, and they prepare images differently.
    """
    data = cfg.get("data")
    if not isinstance(data, Mapping):
        return
    try:
        inside = inner(data.get("test"))
    except SeveralDataSets as error:
        raise BuildError(f"{path}: {error}") from error
    if inside.wrapper:
        cfg.data[TAKEN_FROM] = {"wrapper": inside.wrapper, "count": inside.count}
        cfg.data["test"] = inside.data


def require_model(cfg: mmcv.Config, path: Path) -> None:
    """Refuses a config without a detector; raises `BuildError`."""
    if not isinstance(cfg.get("model"), Mapping) or "type" not in cfg.model:
        raise BuildError(f"{path}: not a detector's config: it has no `model` with a `type`")


def require_pipeline(cfg: mmcv.Config, path: Path) -> None:
    """Refuses a config without a test pipeline; raises `BuildError`."""
    data = cfg.get("data")
    test = data.get("test") if isinstance(data, Mapping) else None
    steps = test.get("pipeline") if isinstance(test, Mapping) else None
    if steps is None:
        raise BuildError(f"{path}: no `data.test.pipeline`: the test pipeline is needed")
    if not _are_steps(steps):
        raise BuildError(
            f"{path}: `data.test.pipeline` is {str(steps)[:80]}: give a list of dict(type=...)"
        )
    require_deviations(steps, path)
    require_values(steps, path)


def _are_steps(steps: Any) -> bool:
    """Whether it is a list of steps, those inside of augmentations included.

    A step may be an object that was made already.
    """
    return isinstance(steps, list | tuple) and all(
        ("type" in step and _are_steps(step.get("transforms") or ()))
        if isinstance(step, Mapping)
        else not isinstance(step, str | int | float | list | tuple)
        for step in steps
    )


def merge(cfg: mmcv.Config, options: Mapping[str, Any]) -> None:
    """Overrides settings of a loaded config, in place.

    ``test_cfg.…`` and ``train_cfg.…`` stand for the model's, wherever the file has them.

    Args:
        cfg: what `load_config` gave.
        options: by dotted key.

    Raises:
        Exception: whatever mmcv says of options that do not fit.
    """
    moved = {
        f"model.{key}" if key.partition(".")[0] in BESIDE else key: value
        for key, value in options.items()
    }
    cfg.merge_from_dict(moved)


def has_setting(cfg: mmcv.Config, key: str) -> bool:
    """Whether a config says anything by a dotted key; see :func:`merge`."""
    value: Any = cfg.model if key.partition(".")[0] in BESIDE else cfg._cfg_dict
    for part in key.split("."):
        if isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            return False
    return True


def _with_values(cfg: mmcv.Config, path: Path) -> mmcv.Config:
    """The config with each ``${key}`` replaced by what it stands for."""
    import mmcv
    from mmdet.utils import replace_cfg_vals

    try:
        # Without the file's name mmcv does not read the file again, in whatever encoding the
        # locale has.
        made = replace_cfg_vals(mmcv.Config(cfg._cfg_dict))
    except Exception as error:
        raise BuildError(
            f"{path}: a ${{key}} in it stands for nothing: {one_line(error)}: correct the file"
        ) from error
    object.__setattr__(made, "_filename", str(path))
    return made


def _refuse_mmdet_3(cfg: mmcv.Config, path: Path) -> None:
    model = cfg.get("model")
    signs = [name for name in _OF_3 if name in cfg]
    if isinstance(model, Mapping) and "data_preprocessor" in model:
        signs.append("model.data_preprocessor")
    loop = cfg.get("test_cfg")
    if isinstance(loop, Mapping) and "type" in loop:
        signs.append("test_cfg.type")
    if signs:
        raise BuildError(f"{path}: it has {', '.join(signs)}: {of_mmdet_3('config')}")


def _move_into_model(cfg: mmcv.Config, path: Path) -> None:
    """Puts what stands beside `model` into it, where all of this package reads it.

    mmdet hands both to the detector, and refuses a config that has one in both places.
    """
    for name in BESIDE:
        outer = cfg.get(name)
        if name in cfg:
            cfg.pop(name)
        if outer is None:
            continue
        if cfg.model.get(name) is not None:
            raise BuildError(
                f"{path}: {name} stands in `model` and beside it, which mmdet refuses: keep "
                f"model.{name}"
            )
        cfg.model[name] = outer
