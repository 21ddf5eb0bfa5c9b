"""What a command may write over: never what it reads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.commands.common import CommandError, writable
from pytest_onnxdet.core.files import no_file
from pytest_onnxdet.data.places import IMAGE_SUFFIXES, file_of

if TYPE_CHECKING:
    from pytest_onnxdet.data.datasets import Dataset

#: What mmdet puts behind ``jsonfile_prefix``.
_RESULTS = (".bbox.json", ".proposal.json", ".segm.json")
#: Where format_results writes, if nothing else is said.
PREFIX = "results"


def require_apart(option: str, target: Path, inputs: Iterable[tuple[str, str | Path]]) -> None:
    """Refuses a file to be written that is one of those that are read, by whatever name or link.

    Args:
        option: of the command, for the message.
        target: the file.
        inputs: what each is, and its path; what does not exist does not count.

    Raises:
        CommandError: the message names both.
    """
    if not target.exists():
        return
    for what, place in inputs:
        try:
            same = os.path.samefile(target, place)
        except (OSError, ValueError):
            continue
        if same:
            raise CommandError(
                f"{option}: {target} is {what}, and would be written over: choose another name"
            )


def bases(config: Path) -> Iterator[tuple[str, Path]]:
    """What a config inherits from, as inputs of :func:`require_apart`."""
    from pytest_onnxdet.models.config_file import based_on

    for base in based_on(config):
        yield "a `_base_` of the config", base


def data_files(test: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The files that a config's ``data.test`` names, as inputs of :func:`require_apart`."""
    for key, what in (("ann_file", "the annotation file"), ("proposal_file", None)):
        if path := file_of(test, key):
            yield what or f"data.test.{key}", path
    if isinstance(test.get("classes"), str):
        yield "data.test.classes", Path(test["classes"])


def require_outside_images(option: str, target: Path, test: Mapping[str, Any]) -> None:
    """Refuses a file to be written in the place of one in the folder of the data set's images.

    Raises:
        CommandError: the message names the file.
    """
    prefix = test.get("img_prefix")
    if not isinstance(prefix, str) or not prefix or not target.is_file():
        return
    folder = Path(test.get("data_root") or "", prefix).resolve()
    if target.suffix.lower() in IMAGE_SUFFIXES and target.resolve().is_relative_to(folder):
        raise CommandError(
            f"{option}: {target} is an image of data.test.img_prefix, and would be written over: "
            "choose another name"
        )


def check_arguments(args: argparse.Namespace) -> None:
    """What can be refused of ``onnxdet test``'s arguments before anything is loaded."""
    if not (args.out or args.eval or args.format_only or args.show or args.show_dir):
        raise CommandError(
            "nothing to do: ask for at least one of --out, --eval, --format-only, --show, "
            "--show-dir"
        )
    if args.eval and args.format_only:
        raise CommandError("--eval and --format-only exclude each other: give one of them")
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise CommandError(f"--out: {args.out}: the file's name must end in .pkl or .pickle")
    if not 0 <= args.show_score_thr <= 1:  # so is NaN
        raise CommandError(f"--show-score-thr: {args.show_score_thr:g}: give a score from 0 to 1")
    if args.batch_size is not None and args.batch_size < 1:
        raise CommandError(f"--batch-size: {args.batch_size}: give 1 or more")
    if kind := no_file(Path(args.model)):
        raise CommandError(f"MODEL: {args.model}: {kind}, not a model's file")
    if not Path(args.model).is_file():
        raise CommandError(f"MODEL: {args.model}: no such file: make it with `onnxdet export`")


def check_targets(
    args: argparse.Namespace, config: Path, test: Mapping[str, Any], data: Dataset
) -> None:
    """Refuses what ``onnxdet test`` was asked to write, where that is read or cannot be written.

    Args:
        args: the command's.
        config: the config's file.
        test: its ``data.test``.
        data: what that opens.

    Raises:
        CommandError: the message names the option and the file.
    """
    inputs = list(_inputs(args, config, test, data))
    if args.out:
        require_apart("--out", Path(args.out), inputs)
    options = args.eval_options or {}
    prefix = options.get("jsonfile_prefix", PREFIX if args.format_only else None)
    if prefix is None or not (args.eval or args.format_only):
        return
    name = "--eval-options jsonfile_prefix"
    if not isinstance(prefix, str) or not prefix:
        raise CommandError(f"{name}: {prefix!r}: give a path without its ending")
    if "://" in prefix:
        raise CommandError(f"{name}: {prefix} is an address: give a path of this machine")
    folder = next(p for p in (Path(prefix).parent, *Path(prefix).parent.parents) if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise CommandError(f"{name}: {folder} cannot be written to: choose another place")
    for ending in _RESULTS:
        target = Path(prefix + ending)
        require_apart(name, target, inputs)
        if target.parent.is_dir():
            writable(target, name)


def _weights_beside(model: Path) -> list[Path]:
    """The files that a graph keeps weights in; what is no graph has none, and is refused later."""
    if model.suffix != ".onnx":
        return []
    import onnx

    from pytest_onnxdet.graph.walk import external_files

    try:
        graph = onnx.load(str(model), load_external_data=False)
    except Exception:  # whatever protobuf makes of it
        return []
    return [model.with_name(name) for name in external_files(graph)]


def _inputs(
    args: argparse.Namespace, config: Path, test: Mapping[str, Any], data: Dataset
) -> Iterator[tuple[str, str | Path]]:
    """What is read, and where it lies."""
    yield "the config", config
    yield from bases(config)
    yield "the model", args.model
    for path in _weights_beside(Path(args.model)):
        yield "weights of the model", path
    yield "the annotation file", data.spec.annotations
    yield from data_files(test)
    for index in range(len(data)):
        yield "an image of the data set", data.path(index)
