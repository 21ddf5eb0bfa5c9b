"""What both commands need: configs by path or name, checkpoints, options, one-line errors."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.commands.labels import class_names
from pytest_onnxdet.core.files import leads_to_stream, no_file

if TYPE_CHECKING:
    import mmcv
    from torch import nn

    from pytest_onnxdet.models.spec import ModelSpec

MINI = "mini:"
USAGE, MISMATCH = 2, 1  # exit codes
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

CONFIG_HELP = (
    "config: a path, a path below MMDetection's configs (retinanet/retinanet_r50_fpn_1x_coco.py), "
    "or mini:NAME for a detector that is shipped (mini:retinanet)"
)
CFG_OPTIONS_HELP = (
    "override settings of the config: key=value, nested keys with dots, lists as "
    'key="[a,b]" or key=a,b, nested as key="[(a,b),(c,d)]", without white space'
)


class CommandError(Exception):
    """What was asked for cannot be done; the message names the file or option and the remedy."""


class DictOptions(argparse.Action):
    """mmcv's ``DictAction``, imported only when there is something to parse."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Adds ``key=value`` words to earlier ones."""
        from pytest_onnxdet.models.torchvision_stub import ensure_torchvision

        ensure_torchvision()
        from mmcv import DictAction

        for word in values:
            if "=" not in word:
                parser.error(f"{option_string}: {word!r} has no '=': write key=value")
            # mmcv only asserts it, and asserts may be switched off.
            if "," in word and any(word.count(a) != word.count(b) for a, b in ("()", "[]")):
                parser.error(f"{option_string}: {word!r}: brackets do not match")
        earlier = dict(getattr(namespace, self.dest) or {})
        try:
            DictAction(self.option_strings, self.dest, nargs="+")(
                parser, namespace, values, option_string
            )
        except Exception as error:
            parser.error(f"{option_string}: {' '.join(values)}: {error}")
        setattr(namespace, self.dest, earlier | getattr(namespace, self.dest))


@dataclass(frozen=True)
class Model:
    """A config as the commands use it.

    Attributes:
        cfg: brought up to date, with the options merged.
        path: its file.
        spec: the mini's spec, None for a config by path.
    """

    cfg: mmcv.Config
    path: Path
    spec: ModelSpec | None = None


def open_config(name: str, options: Mapping[str, Any] | None) -> Model:
    """The config behind a command's CONFIG.

    Args:
        name: see :data:`CONFIG_HELP`.
        options: ``--cfg-options``.

    Raises:
        CommandError: there is none, or the options do not fit it.
        BuildError: it is not a detector's config.
    """
    from pytest_onnxdet.models.build import config_path, config_root, load_config
    from pytest_onnxdet.models.checkpoint import BuildError, one_line
    from pytest_onnxdet.models.config import has_setting, merge, require_model, require_pipeline
    from pytest_onnxdet.models.file_clients import read_from_disk
    from pytest_onnxdet.models.spec import ModelSpec

    mini = None
    if name.startswith(MINI):
        mini = _mini(name)
        spec = mini
    else:
        local = Path(name)
        known = str(local.resolve()) if local.is_file() else name
        if no_file(local):
            known = os.path.abspath(name)
        spec = ModelSpec("model", known)
    try:
        path = config_path(spec)
    except BuildError as error:
        if os.path.isabs(name) or Path(name).exists():
            raise
        raise CommandError(
            f"{name}: no such config file: looked in {Path.cwd()} and below {config_root()}; "
            f"{CONFIG_HELP}"
        ) from error
    cfg = load_config(spec)
    if mini is not None:
        _use_shapes(cfg)
    if options:
        # A new setting beside others may be one that mmdet reads; alone it is misspelt.
        added = [key for key in options if not has_setting(cfg, key.rpartition(".")[0] or key)]
        if added:
            text = "the config has nothing of that name: it counts only where mmdet reads it"
            warn(f"--cfg-options: {', '.join(added)}: {text}")
        try:
            merge(cfg, options)
        except Exception as error:
            raise CommandError(
                f"--cfg-options: {', '.join(options)}: does not fit {path}: {one_line(error)}"
            ) from error
        _check_test(cfg)
        require_model(cfg, path)
        require_pipeline(cfg, path)
        read_from_disk(cfg, path)
    return Model(cfg, path, mini)


def _check_test(cfg: mmcv.Config) -> None:
    """Raises `CommandError` where options have put something else in the data set's place."""
    test = cfg.data.get("test") if isinstance(cfg.data, Mapping) else cfg.data
    if not isinstance(test, Mapping):
        raise CommandError(
            f"--cfg-options: data.test is a {type(test).__name__} now, not one data set: change "
            "its settings by name, as in data.test.ann_file=PATH"
        )


def _mini(name: str) -> ModelSpec:
    from pytest_onnxdet.models.registry import UnknownModel, builtin_registry

    try:
        return builtin_registry().get(name.removeprefix(MINI), "mini")
    except UnknownModel as error:
        raise CommandError(str(error)) from error


def _use_shapes(cfg: mmcv.Config) -> None:
    """A mini is tested on the drawn scenes, not on the data of the config that it is made from."""
    import mmcv

    from pytest_onnxdet.data.datasets import builtin_datasets

    shapes = builtin_datasets().get("shapes")
    cfg.data.test = mmcv.ConfigDict(
        type="CocoDataset",
        ann_file=str(shapes.annotations),
        img_prefix=str(shapes.images),
        classes=shapes.classes,
        pipeline=cfg.data.test.pipeline,
    )


def build(model: Model, checkpoint: str | None, trust: bool = False) -> nn.Module:
    """The detector with its weights, in eval mode on the CPU, ``CLASSES`` and ``cfg`` set.

    Args:
        model: what `open_config` gave.
        checkpoint: a file, a URL, or None or ``mini:NAME`` for a mini's own weights.
        trust: unpickle whatever the checkpoint holds.

    Raises:
        CommandError: no checkpoint.
        NoLoweringError: no family takes it; the checkpoint is not read then.
        BuildError: it cannot be built, or the checkpoint does not fit.
    """
    from pytest_onnxdet.models.build import load_weights, make_detector
    from pytest_onnxdet.models.pipeline_channels import require_channels

    if checkpoint is None:
        if model.spec is None:
            raise CommandError("CHECKPOINT is missing: only mini:NAME brings its own weights")
        checkpoint = model.spec.weights
    elif checkpoint.startswith(MINI):
        checkpoint = _mini(checkpoint).weights
    assert checkpoint is not None
    detector = make_detector(model.cfg, model.path)
    _require_family(detector)
    meta = load_weights(checkpoint, detector, trust=trust)
    require_channels(detector, model.cfg.data.test.pipeline, model.path)
    detector.CLASSES = model.spec.classes if model.spec else class_names(meta, detector, model.cfg)
    detector.cfg = model.cfg
    built: nn.Module = detector.float()
    built.eval()
    return built


def _require_family(detector: nn.Module) -> None:
    """Refuses what does not export before its weights are read, or even fetched."""
    from pytest_onnxdet.export.options import NoLoweringError
    from pytest_onnxdet.families import UnsupportedPart
    from pytest_onnxdet.families.registry import builtin_families

    try:
        builtin_families().of(detector)
    except UnsupportedPart as error:
        raise NoLoweringError(str(error)) from error


def require_detector(model: Model) -> None:
    """Refuses, by the detector's name, what gives no detections, or not of images alone.

    Raises:
        CommandError: it is one stage of a detector of two.
    """
    from mmdet.models import DETECTORS
    from mmdet.models.detectors import FastRCNN, TwoStageDetector

    from pytest_onnxdet.families.settings import half_a_detector, parts_of

    name = str(model.cfg.model.get("type"))
    kind = DETECTORS.get(name)
    if kind is not None and issubclass(kind, TwoStageDetector):
        alone = {FastRCNN: ["roi_head"]}
        parts = next((alone[one] for one in alone if issubclass(kind, one)), None)
        why = half_a_detector(name, parts or parts_of(model.cfg.model))
        if why is not None:
            raise CommandError(f"{model.path}: {why}")


STRICT_HELP = (
    "refuse a config whose test pipeline augments (flip, several scales), of which a graph is the "
    "first view alone; else that is a warning"
)


def check_views(model: Model, strict: bool) -> None:
    """Says that a config's test pipeline augments, where it does.

    Raises:
        CommandError: it does, and ``strict``.
    """
    from pytest_onnxdet.data.augmentation import augmentation, first_view

    test: Any = model.cfg.data.get("test") or {}
    views = augmentation(test.get("pipeline") or ())
    if not views:
        return
    reason = first_view(str(model.path), views)
    if strict:
        raise CommandError(f"--strict: {reason}: set flip=False and one scale")
    warn(reason)


def writable(path: Path, option: str) -> Path:
    """``path``, whose folder is there and can be written to.

    Raises:
        CommandError: it is not, or something that is no file is in the file's place: a named pipe
            would be waited for without end.
    """
    folder = path.parent
    path.exists()  # raises OSError where no file can have that name
    if kind := no_file(path) or ("a stream" if leads_to_stream(path) else ""):
        raise CommandError(f"{option}: {path} is {kind}: give a file's name")
    if not folder.is_dir():
        raise CommandError(f"{option}: there is no folder {folder}: make it first")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"{option}: {folder} cannot be written to: choose another place")
    return path


def say(text: str) -> None:
    """A line of the command's output."""
    print(text, flush=True)


def warn(text: str) -> None:
    """A line on stderr."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """A message in which characters that a terminal obeys, or stops at, are spelt out."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is the whole story, so that no traceback is needed."""
    from pytest_onnxdet.backends import BackendError
    from pytest_onnxdet.core.store import StoreError
    from pytest_onnxdet.data.batches import DataError
    from pytest_onnxdet.export.options import ExportError
    from pytest_onnxdet.models.checkpoint import BuildError
    from pytest_onnxdet.reference.detector import PyTorchFails

    own = (CommandError, BackendError, DataError, StoreError, ExportError, BuildError)
    return (*own, PyTorchFails)


def display() -> bool:
    """Whether there is a screen to open a window on."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def in_words(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
