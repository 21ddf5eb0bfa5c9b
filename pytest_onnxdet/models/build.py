"""From a spec to a detector: the config, the modules, the weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_onnxdet.models.checkpoint import BuildError, one_line, read_checkpoint
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision
from pytest_onnxdet.models.wrapped import TAKEN_FROM, SeveralDataSets, inner

ensure_torchvision()
import mmcv  # noqa: E402  (the stand-in has to be there first)
import mmdet  # noqa: E402

NAMED = 3  # how many offending names a message quotes


def config_root() -> Path:
    """The folder of mmdet's documented configs: in the wheel, or beside a source checkout."""
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
    if not path.is_file():
        raise BuildError(
            f"{path}: no such config file (model {spec.name!r}): give an absolute path, or one "
            f"below {config_root()}"
        )
    return path


def _parse(path: Path) -> mmcv.Config:
    """The config file as mmcv reads it."""
    try:
        return mmcv.Config.fromfile(str(path))
    except SystemError:
        # CPython 3.11's ast module keeps its recursion depth in shared state, and parsing fails
        # ("AST constructor recursion depth mismatch") when a collection interrupts it. Once.
        return mmcv.Config.fromfile(str(path))


def load_config(spec: ModelSpec) -> mmcv.Config:
    """The spec's config with its overrides, brought up to date as mmdet's test tool does.

    Raises:
        BuildError: the file is missing, does not parse, or does not describe a detector.
    """
    from mmdet.utils import compat_cfg, replace_cfg_vals

    path = config_path(spec)
    try:
        cfg = replace_cfg_vals(_parse(path))
    except Exception as error:  # a config is Python: anything can come out of it
        raise BuildError(
            f"{path}: the config does not parse: {one_line(error)}: correct the file"
        ) from error
    if not isinstance(cfg.get("model"), Mapping) or "type" not in cfg.model:
        raise BuildError(f"{path}: not a detector's config: it has no `model` with a `type`")
    try:
        # A copy: merging takes `_delete_` out of the tables that it merges.
        cfg.merge_from_dict(copy.deepcopy(dict(spec.overrides)))
    except Exception as error:
        raise BuildError(
            f"{path}: the overrides of model {spec.name!r} do not fit this config: "
            f"{one_line(error)}: correct the overrides"
        ) from error
    _take_test_data_out(cfg, path)
    if "test" not in cfg.get("data", {}) or "pipeline" not in cfg.data.test:
        raise BuildError(f"{path}: no `data.test.pipeline`: the test pipeline is needed")
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
        found = inner(data.get("test"))
    except SeveralDataSets as error:
        raise BuildError(f"{path}: {error}") from error
    if found.wrapper:
        cfg.data[TAKEN_FROM] = {"wrapper": found.wrapper, "count": found.count}
        cfg.data["test"] = found.data


def make_detector(cfg: mmcv.Config, path: Path | str, train: bool = False) -> Any:
    """The config's detector with fresh weights; no pretrained backbone is downloaded.

    Args:
        cfg: what `load_config` gave.
        path: the config's file, for messages.
        train: keep train_cfg, so that ``forward_train`` works.
    """
    from mmdet.models import DETECTORS
    from mmdet.models import build_detector as mmdet_build

    kind = cfg.model.get("type")
    if kind not in DETECTORS:
        raise BuildError(
            f"{path}: `model.type` is {kind!r}, which is not a detector mmdet knows: give a "
            "detection config, or import the module that registers the detector first"
        )
    model = copy.deepcopy(cfg.model)
    if not train:
        model["train_cfg"] = None
    model.pop("pretrained", None)
    if "backbone" in model:
        model.backbone.pop("pretrained", None)
        model.backbone.pop("init_cfg", None)
    try:
        return mmdet_build(model, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg"))
    except Exception as error:
        raise BuildError(f"{path}: {kind} cannot be built: {one_line(error)}") from error


def build_detector(
    spec: ModelSpec, weights: str | Path | None = None, downloads: Path | None = None
) -> torch.nn.Module:
    """The spec's detector: eval mode, CPU, float32, ``CLASSES`` set, weights loaded.

    Args:
        spec: the model.
        weights: in place of ``spec.weights``. Where both are None the weights are fresh.
        downloads: folder for weights that are a URL; None: in the user's cache folder.
    """
    cfg = load_config(spec)
    model = make_detector(cfg, config_path(spec))
    source = weights if weights is not None else spec.weights
    if source is None:
        initialise(model)
    else:
        load_weights(source, model, downloads=downloads)
    model.CLASSES = spec.classes
    model.cfg = cfg
    detector: torch.nn.Module = model.float().eval()
    return detector


def initialise(model: Any) -> None:
    """Draw the detector's first weights, without mmcv's report on every parameter."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        model.init_weights()
    finally:
        logging.disable(before)


def load_weights(
    path: str | Path,
    model: torch.nn.Module,
    *,
    trust: bool = False,
    downloads: Path | None = None,
) -> dict[str, Any]:
    """Fill ``model`` from a .safetensors or PyTorch file, or from a URL (fetched once).

    Nothing in the file is executed unless ``trust`` is set (``weights_only=True``). Every
    parameter must be there with its shape, and nothing else.

    Args:
        path: the file, or an http(s) URL.
        model: the detector.
        trust: unpickle whatever the file holds, which can run code from it.
        downloads: folder for a URL's file; None: in the user's cache folder.

    Returns:
        What the checkpoint says of itself (``meta``), {} where it says nothing.

    Raises:
        BuildError: the file is missing, corrupt, holds pickled code, or does not fit.
    """
    text = str(path)
    remote = text.startswith(("http://", "https://"))
    file = _fetch(text, downloads) if remote else Path(path)
    state, meta = _read_state(file, trust)
    own = model.state_dict()
    misshapen = [
        f"{name} {tuple(tensor.shape)} for {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    # Not strict: modules rename what older versions of mmdet saved while they load.
    fit = model.load_state_dict(
        {n: t for n, t in state.items() if n not in own or own[n].shape == t.shape}
        if misshapen
        else state,
        strict=False,
    )
    missing = [n for n in fit.missing_keys if not n.endswith("num_batches_tracked")]
    if misshapen:
        missing = [n for n in missing if n not in state]
    parts = [
        f"{len(names)} {what} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", fit.unexpected_keys),
            ("misshapen", misshapen),
        )
        if names
    ]
    if parts:
        raise BuildError(
            f"{file}: these weights do not fit {type(model).__name__} as configured: "
            f"{'; '.join(parts)}: give the checkpoint that was trained with this config"
        )
    return meta


def _fetch(url: str, folder: Path | None) -> Path:
    from pytest_onnxdet.models.download import DownloadError, default_folder, download

    try:
        return download(url, default_folder() if folder is None else folder)
    except DownloadError as error:
        raise BuildError(str(error)) from error


def _read_state(file: Path, trust: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A file's tensors and its ``meta``."""
    if not file.is_file():
        raise BuildError(
            f"{file}: no such weights file: give the path of a .safetensors or .pth file; the "
            "shipped ones come from `python tools/train_mini.py MODEL`"
        )
    if file.suffix == ".safetensors":
        return _read_safetensors(file), {}
    loaded = read_checkpoint(file, trust)
    whole = loaded if isinstance(loaded, Mapping) else {}
    state = whole.get("state_dict", loaded)
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise BuildError(f"{file}: holds no state_dict of tensors: save `model.state_dict()`")
    meta = whole.get("meta") if "state_dict" in whole else None
    return _unwrapped(state), dict(meta) if isinstance(meta, Mapping) else {}


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise BuildError(
            f"{file}: the weights file is corrupt: {one_line(error)}: restore it from the package "
            "or repository, or train it again"
        ) from error


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    """Take off DataParallel's prefix and averaged copies; keep what load hooks look at."""
    for name in list(state):
        if name.startswith("ema_"):
            del state[name]
        elif name.startswith("module."):
            state[name.removeprefix("module.")] = state.pop(name)
    return state
