"""``onnxdet export CONFIG CHECKPOINT``: MMDetection's ``pytorch2onnx.py``, argument for argument.

Beyond it: the file runs on plain ONNX Runtime, has a second input with each image's size, and
``--verify`` compares every detection.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_onnxdet.commands.common import (
    CFG_OPTIONS_HELP,
    CONFIG_HELP,
    MISMATCH,
    STRICT_HELP,
    CommandError,
    DictOptions,
    build,
    check_views,
    open_config,
    say,
    warn,
    writable,
)

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.export.options import ExportOptions

DEPRECATED = {
    "dataset": "coco",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments, with the stock tool's names and defaults."""
    parser.add_argument("config", metavar="CONFIG", help=CONFIG_HELP)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="a .pth or .safetensors file, or a URL; may be left out for mini:NAME",
    )
    parser.add_argument("--output-file", default="tmp.onnx", help="default: tmp.onnx")
    parser.add_argument(
        "--input-img", help="image to try the graph on; default: a sample that is shipped"
    )
    parser.add_argument("--test-img", help="image for --verify and --show; default: --input-img")
    parser.add_argument(
        "--shape",
        type=int,
        nargs="+",
        default=[800, 1216],
        metavar="PX",
        help="height and width of the input; one value is a square; default: 800 1216",
    )
    parser.add_argument("--opset-version", type=int, default=11, help="default: 11")
    parser.add_argument(
        "--dynamic-export", action="store_true", help="leave batch, height and width free"
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="print what the graph consists of, and write a picture of PyTorch's and the graph's "
        "detections beside the output",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the graph's detections with PyTorch's; exit code 1 if they differ",
    )
    parser.add_argument("--simplify", action="store_true", help="simplify the graph with onnxslim")
    parser.add_argument(
        "--skip-postprocess",
        action="store_true",
        help="export the heads' raw outputs, named by level; single-stage models only",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictOptions,
        metavar="KEY=VALUE",
        help=CFG_OPTIONS_HELP,
    )
    more = parser.add_argument_group("beyond MMDetection's tool")
    more.add_argument(
        "--lowering",
        choices=("onnxruntime", "tensorrt"),
        default="onnxruntime",
        help="which runtime's operators to use; default: onnxruntime",
    )
    more.add_argument(
        "--batch",
        type=int,
        help="images per batch of a graph that is not dynamic; default: 1. With --dynamic-export "
        "the batch stays free; it is traced with so many, default: 2, and verified with at least 2",
    )
    more.add_argument(
        "--single-input",
        action="store_true",
        help="no input image_shape: the whole input counts as image, as in stock graphs",
    )
    more.add_argument(
        "--mask-output",
        choices=("roi", "image"),
        default="roi",
        help="roi: probabilities by region, pasted by the caller; image: bool masks of the "
        "input's size, as in stock graphs; default: roi",
    )
    more.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="unpickle whatever CHECKPOINT holds, which can run code from it",
    )
    more.add_argument("--strict", action="store_true", help=STRICT_HELP)
    old = parser.add_argument_group("deprecated, without effect: the config says it")
    old.add_argument("--dataset", type=str)
    old.add_argument("--mean", type=float, nargs="+")
    old.add_argument("--std", type=float, nargs="+")


def run(args: argparse.Namespace) -> int:
    """Export, and verify and show where asked to.

    Returns:
        The exit code: 0, or 1 where the graph does not do what PyTorch does.
    """
    from pytest_onnxdet.commands.caps import take_caps, without_effect
    from pytest_onnxdet.commands.images import pair, readable
    from pytest_onnxdet.commands.targets import (
        bases,
        data_files,
        require_apart,
        require_outside_images,
    )

    for name in DEPRECATED:
        if getattr(args, name) is not None:
            warn(f"--{name} is deprecated and has no effect: it is read from the config")
    size = _size(args.shape)
    output = writable(Path(args.output_file), "--output-file")
    named = (("--test-img", args.test_img), ("--input-img", args.input_img))
    read = (("the config", args.config), ("the checkpoint", args.checkpoint or ""), *named)
    inputs = [(what, place) for what, place in read if place]
    pictures_at = output.with_name(f"{output.stem}_detections.png")
    require_apart("--output-file", output, inputs)
    if args.show:
        require_apart("--show", pictures_at, inputs)
    images = pair([readable(Path(name), option) for option, name in named if name])
    _require_simplifier(args.simplify)

    model = open_config(args.config, args.cfg_options)
    test = model.cfg.data.test
    inherited = [("the config", model.path), *bases(model.path), *data_files(test)]
    for option, target in (("--output-file", output), ("--show", pictures_at)):
        if option != "--show" or args.show:
            require_apart(option, target, inherited)
            require_outside_images(option, target, test)
    check_views(model, args.strict)
    caps = take_caps(model.cfg)
    detector = build(model, args.checkpoint, args.trust_checkpoint)
    for name, why in list(
        without_effect(detector, caps, args.cfg_options or {}, args.skip_postprocess)
    ):
        warn(f"test_cfg.{name} has no effect: {why}")
        caps.pop(name, None)
    options = _options(args, size, detector, caps)
    artifact = _export(detector, options, output)
    _report(artifact, options)
    if args.show:
        from pytest_onnxdet.graph.describe import summarize

        say(summarize(output))
    if not (args.verify or args.show):
        return 0

    from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
    from pytest_onnxdet.commands.verify import pictures, verify
    from pytest_onnxdet.models.spec import GPU, Tolerance

    backend = OnnxRuntimeBackend()
    missing = backend.missing()
    if missing:
        raise CommandError(f"--verify and --show run the graph: {missing}")
    good = True
    with backend.prepare(artifact) as session:
        if args.show and options.postprocess:
            pictures(detector, session, options, images, pictures_at)
        elif args.show:
            warn("--show: no picture is written: with --skip-postprocess there are no detections")
        if args.verify:
            if model.spec:
                tolerance = model.spec.tolerance("onnxruntime", device=session.device)
            else:
                tolerance = Tolerance() if session.device == "cpu" else GPU
            good = verify(detector, session, options, images, tolerance)
            say(_verdict(good, options))
    return 0 if good else MISMATCH


def _verdict(good: bool, options: ExportOptions) -> str:
    if good:
        return "The results are the same in PyTorch and ONNX Runtime"
    text = "Verification failed, see above; the file was kept"
    if options.limits:
        caps = ", ".join(f"{name}={value}" for name, value in options.limits.items())
        text += f". The graph was capped ({caps}), which PyTorch does not know"
    return text


def _size(shape: list[int]) -> tuple[int, int]:
    if len(shape) > 2:
        raise CommandError(f"--shape: {len(shape)} values: give height and width, or one for both")
    if min(shape) < 1:
        raise CommandError("--shape: give pixels, 1 or more")
    return shape[0], shape[-1]


def _require_simplifier(wanted: bool) -> None:
    from pytest_onnxdet.export.simplify import missing

    why = missing() if wanted else None
    if why:
        raise CommandError(f"--simplify: {why}")


def _options(
    args: argparse.Namespace, size: tuple[int, int], detector: nn.Module, caps: Mapping[str, int]
) -> ExportOptions:
    from pytest_onnxdet.export.options import ExportOptions

    if args.batch is not None and args.batch < 1:
        raise CommandError(f"--batch: {args.batch}: give 1 or more")
    two_stage = hasattr(detector, "roi_head")
    if args.skip_postprocess and two_stage:
        raise CommandError(
            f"--skip-postprocess: {type(detector).__name__} is a two-stage model: its second stage "
            "runs on the boxes that post-processing of the first one chooses, so there are no raw "
            "outputs to stop at; only single-stage models have them"
        )
    if args.mask_output == "image" and _has_image_maps(detector):
        raise CommandError(
            f"--mask-output image: the masks of {type(detector).__name__} are maps of the image "
            "already: leave the option out"
        )
    if args.mask_output == "image" and not (two_stage and detector.roi_head.with_mask):
        raise CommandError(f"--mask-output image: {type(detector).__name__} has no masks")
    return ExportOptions(
        shape="dynamic" if args.dynamic_export else "static",
        # What is traced with one image can take the batch for fixed without showing it.
        batch=args.batch or (2 if args.dynamic_export else 1),
        size=size,
        lowering=args.lowering,
        opset=args.opset_version,
        postprocess=not args.skip_postprocess,
        limits=dict(caps),
        single_input=args.single_input,
        mask_output=args.mask_output,
        simplify=args.simplify,
    )


def _has_image_maps(detector: nn.Module) -> bool:
    from pytest_onnxdet.families.classes import UnsupportedPart
    from pytest_onnxdet.families.registry import builtin_families

    try:
        return builtin_families().of(detector).image_maps(detector) is not None
    except UnsupportedPart:
        return False  # which is said when it is exported


def _export(detector: nn.Module, options: ExportOptions, output: Path) -> Artifact:
    """The file, whole or not at all."""
    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.export.exporter import export_detector

    # Of a link it is the file that is written: the link stays.
    place = Path(os.path.realpath(output))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{output.stem}.", suffix=".onnx", dir=place.parent)
        os.close(handle)
        try:
            info = export_detector(detector, options, Path(name))
            if options.shape == "dynamic":
                _try_elsewhere(detector, options, Path(name), info["baked"])
            # mkstemp lets nobody else read; a file that was asked for is read by others.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(name, 0o666 & ~umask)
            os.replace(name, place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CommandError(
            f"--output-file: {output} cannot be written: {error.strerror or error}"
        ) from error
    return Artifact(output, "", cached=False, info=info)


def _try_elsewhere(
    detector: nn.Module, options: ExportOptions, path: Path, baked: Sequence[str]
) -> None:
    """Has a dynamic graph run at another size and batch, before it is called dynamic."""
    from pytest_onnxdet.export.probe import RUNS, UNTRIED, require_dynamic

    verdict = require_dynamic(detector, options, path, baked)
    for place in baked:
        warn(f"fixed while tracing: {place}")
    if verdict == RUNS and baked:
        warn(
            "the graph runs at another size and batch, where neither it nor PyTorch finds anything "
            "in noise: --verify compares detections in images"
        )
    if verdict == UNTRIED:
        warn(
            "the graph was not tried at another size: that needs onnxruntime, and a detector that "
            "takes one"
        )


def _report(artifact: Artifact, options: ExportOptions) -> None:
    info = artifact.info
    if options.simplify:
        say(f"Simplified: {info['nodes_before']} nodes before, {info['nodes']} after")
    what = "raw outputs" if not options.postprocess else "detections"
    height, width = options.size
    shape = (
        "any batch and size"
        if options.shape == "dynamic"
        else f"batch {options.batch}, {height} x {width}"
    )
    say(
        f"Successfully exported ONNX model: {artifact.path} ({what}, {shape}, opset "
        f"{info['opset']}, {info['nodes']} nodes, {info['bytes'] / 1e6:.2f} MB)"
    )
