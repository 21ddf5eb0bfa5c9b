"""From a spec to a detector: the config, the modules, the weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_onnxdet.core.files import no_file
from pytest_onnxdet.models.checkpoint import BuildError, one_line, read_checkpoint
from pytest_onnxdet.models.config import config_path, config_root, load_config
from pytest_onnxdet.models.cpu_operators import give_cpu_code
from pytest_onnxdet.models.pipeline_channels import require_channels
from pytest_onnxdet.models.receptive_fields import search_receptive_fields
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision
from pytest_onnxdet.models.unbuildable import why_unbuildable
from pytest_onnxdet.models.weights import put_into, refuse_mmdet_3

ensure_torchvision()
import mmcv  # noqa: E402  (the stand-in has to be there first)

__all__ = [
    "BuildError",
    "build_detector",
    "checkpoint_meta",
    "config_path",
    "config_root",
    "initialise",
    "load_config",
    "load_weights",
    "make_detector",
]


def make_detector(cfg: mmcv.Config, path: Path | str, train: bool = False) -> Any:
    """The config's detector with fresh weights; nothing that was trained before is downloaded.

    Layers whose operators mmcv has for a GPU alone compute their definition on a CPU.

    Args:
        cfg: what `load_config` gave.
        path: the config's file, for messages.
        train: keep train_cfg, so that ``forward_train`` works.
    """
    from mmdet.models import DETECTORS
    from mmdet.models import build_detector as mmdet_build

    kind = cfg.model.get("type")
    if not isinstance(kind, str | type) or (isinstance(kind, str) and kind not in DETECTORS):
        raise BuildError(
            f"{path}: `model.type` is {kind!r}, which is not a detector mmdet knows: give a "
            "detection config, or import the module that registers the detector first"
        )
    model = copy.deepcopy(cfg.model)
    if not train:
        model["train_cfg"] = None
        _forget_teacher(model)
    _forget_pretrained(model)
    try:
        detector = mmdet_build(model)
    except Exception as error:
        why = why_unbuildable(model, error)
        raise BuildError(f"{path}: {kind} cannot be built: {why}") from error
    search_receptive_fields(detector, cfg, path)
    give_cpu_code(detector)
    return detector


def _forget_pretrained(part: Any) -> None:
    """Takes out of a model, part by part, where the first weights come from."""
    if isinstance(part, Mapping):
        settings: Any = part
        settings.pop("pretrained", None)
        first = settings.get("init_cfg")
        if any(one.get("type") == "Pretrained" for one in _mappings(first)):
            settings.pop("init_cfg")
    for one in part.values() if isinstance(part, Mapping) else part:
        if isinstance(one, Mapping | list | tuple):
            _forget_pretrained(one)


def _mappings(settings: Any) -> list[Mapping[str, Any]]:
    """A mapping, or those of a list of them."""
    listed = settings if isinstance(settings, list | tuple) else [settings]
    return [one for one in listed if isinstance(one, Mapping)]


def _forget_teacher(model: Any) -> None:
    """Of a student trained by distillation: its teacher neither is fetched nor has weights.

    mmdet's ``KnowledgeDistillationSingleStageDetector`` asks the teacher for nothing when it
    detects, and keeps it out of its own weights. ``teacher_config`` is a path beside mmdet's own
    sources, which installed ones lack: another student stands there in the teacher's place.
    """
    if "teacher_ckpt" in model:
        model["teacher_ckpt"] = None
    if "teacher_config" in model:
        parts = {name: model[name] for name in ("backbone", "neck", "bbox_head") if name in model}
        student = {"type": "SingleStageDetector", **copy.deepcopy(parts)}
        model["teacher_config"] = {"model": student}


def build_detector(
    spec: ModelSpec,
    weights: str | Path | None = None,
    downloads: Path | None = None,
    check: Callable[[torch.nn.Module], object] | None = None,
) -> torch.nn.Module:
    """The spec's detector: eval mode, CPU, float32, ``CLASSES`` set, weights loaded.

    Args:
        spec: the model.
        weights: in place of ``spec.weights``. Where both are None the weights are fresh.
        downloads: folder for weights that are a URL; None: in the user's cache folder.
        check: is given the detector before weights are read, or even fetched; what it raises is
            raised.
    """
    cfg = load_config(spec)
    model = make_detector(cfg, config_path(spec))
    if check is not None:
        check(model)
    source = weights if weights is not None else spec.weights
    if source is None:
        initialise(model)
    else:
        load_weights(source, model, downloads=downloads)
    require_channels(model, cfg.data.test.pipeline, config_path(spec))
    model.CLASSES = spec.classes
    model.cfg = cfg
    detector: torch.nn.Module = model.float()
    detector.eval()  # a distilled student's gives nothing back
    return detector


def initialise(model: Any) -> None:
    """Draw the detector's first weights, without mmcv's report on every parameter.

    A convolution that leaves them to a checkpoint, as mmdet's TridentConv does, has what was in
    memory before: it gets weights, too.
    """
    for module in model.modules():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.dim() == 4 and not hasattr(module, "reset_parameters"):
            torch.nn.init.kaiming_uniform_(weight, a=1)
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
    file = _local(path, downloads)
    state, meta = _read_state(file, trust)
    refuse_mmdet_3(file, meta, list(state))
    put_into(model, state, file)
    return meta


def checkpoint_meta(path: Path | str, downloads: Path | None = None) -> dict[str, Any]:
    """What a checkpoint says of itself (``meta``), {} where it says nothing.

    Args:
        path: the file, or an http(s) URL.
        downloads: folder for a URL's file; None: in the user's cache folder.

    Raises:
        BuildError: the file is missing, corrupt, or holds pickled code.
    """
    return _read_state(_local(path, downloads))[1]


def _local(path: Path | str, downloads: Path | None) -> Path:
    """A weights file on this machine."""
    return _fetch(str(path), downloads) if "://" in str(path) else Path(path)


def _fetch(url: str, folder: Path | None) -> Path:
    from pytest_onnxdet.models.download import DownloadError, default_folder, download

    try:
        return download(url, default_folder() if folder is None else folder)
    except DownloadError as error:
        raise BuildError(str(error)) from error


def _read_state(file: Path, trust: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """A file's tensors and its ``meta``."""
    if file.is_dir():
        raise BuildError(f"{file}: a folder, not a weights file: give a .safetensors or .pth file")
    if kind := no_file(file):
        raise BuildError(f"{file}: {kind}, not a weights file: write it to a file first")
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
    save = "save `model.state_dict()`, or {'state_dict': model.state_dict()}"
    if not isinstance(state, Mapping):
        raise BuildError(
            f"{file}: holds no state_dict of tensors, but a {type(state).__name__}: {save}"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not torch.is_tensor(value):
            what = f"a {type(value).__name__} named {name!r}"
            raise BuildError(f"{file}: holds no state_dict of tensors: {what} is in it: {save}")
    meta = whole.get("meta") if "state_dict" in whole else None
    return _unwrapped(dict(state)), dict(meta) if isinstance(meta, Mapping) else {}


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
