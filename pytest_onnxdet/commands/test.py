"""``onnxdet test CONFIG MODEL``: MMDetection's ``deployment/test.py``, argument for argument.

Images are streamed: what stays in memory of an image is its boxes and run-length encoded masks.
"""

from __future__ import annotations

import argparse
import math
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.commands.common import (
    CFG_OPTIONS_HELP,
    CONFIG_HELP,
    STRICT_HELP,
    CommandError,
    DictOptions,
    Model,
    check_views,
    in_words,
    open_config,
    require_detector,
    say,
    warn,
    writable,
)
from pytest_onnxdet.data.image_maps import IMAGE_MAPS_NAME, image_maps
from pytest_onnxdet.data.masks import THRESHOLD_NAME

if TYPE_CHECKING:
    from pytest_onnxdet.backends.base import Backend, Session
    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.data.datasets import Dataset
    from pytest_onnxdet.data.detections import Detections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments, with the stock tool's names and defaults."""
    parser.add_argument("config", metavar="CONFIG", help=CONFIG_HELP)
    parser.add_argument("model", metavar="MODEL", help="an .onnx file or a TensorRT engine")
    parser.add_argument(
        "--backend",
        required=True,
        choices=("onnxruntime", "tensorrt"),
        help="what runs the model",
    )
    parser.add_argument("--out", help="write the results to this .pkl file, in mmdet's format")
    parser.add_argument(
        "--format-only",
        action="store_true",
        help="write the results in the data set's own format and do not evaluate them "
        "(--eval-options jsonfile_prefix=PATH says where)",
    )
    parser.add_argument(
        "--eval",
        nargs="+",
        metavar="METRIC",
        help="bbox, segm, proposal for COCO; mAP, recall for VOC; of a proposal network proposal, "
        "proposal_fast, recall",
    )
    parser.add_argument(
        "--show", action="store_true", help="show painted images on the screen, one by one"
    )
    parser.add_argument("--show-dir", help="write painted images into this folder")
    parser.add_argument(
        "--show-score-thr",
        type=float,
        default=0.3,
        help="least score of a painted detection, from 0 to 1; default: 0.3",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictOptions,
        metavar="KEY=VALUE",
        help=CFG_OPTIONS_HELP,
    )
    parser.add_argument(
        "--eval-options",
        nargs="+",
        action=DictOptions,
        metavar="KEY=VALUE",
        help="arguments of the data set's evaluate() or format_results(): classwise=True",
    )
    more = parser.add_argument_group("beyond MMDetection's tool")
    more.add_argument(
        "--batch-size",
        type=int,
        help="images per batch; default: what the graph was exported for; if it is dynamic, the "
        "config's data.test.samples_per_gpu, else 1",
    )
    more.add_argument("--strict", action="store_true", help=STRICT_HELP)


def run(args: argparse.Namespace) -> int:
    """Run the data set, then write, format, evaluate what was asked for.

    Returns:
        The exit code, 0.
    """
    from pytest_onnxdet.backends.base import expecting
    from pytest_onnxdet.commands.eval_options import check_metrics, check_options, gives_proposals
    from pytest_onnxdet.commands.evaluate import evaluate, format_results, open_data
    from pytest_onnxdet.commands.pictures import places_of
    from pytest_onnxdet.commands.results import (
        check_outputs,
        check_threshold,
        configured_threshold,
        mmdet_result,
    )
    from pytest_onnxdet.commands.targets import check_arguments, check_targets

    check_arguments(args)
    out = writable(Path(args.out), "--out") if args.out else None
    model = _opened(args)
    threshold = configured_threshold(model)
    check_views(model, args.strict)
    data = open_data(model, args.eval or ())
    proposals = gives_proposals(model)
    check_metrics(data, args.eval or (), proposals)
    if args.eval or args.format_only:
        check_options(data, args.eval_options or {}, formatting=args.format_only)
    check_targets(args, model.path, model.cfg.data.test, data)
    places = places_of(args.show_dir, data)
    backend = named_backend(args.backend)
    graph, wanted = describe(Path(args.model), backend.name), data.coco.samples_per_gpu
    batch = batch_size(graph, args.batch_size, wanted)
    check_threshold(graph, threshold)
    check_outputs(graph, model)
    if backend.builds and graph.path.suffix == ".onnx" and graph.static_shape is None:
        # Else the engine would be built for a default shape, and again where an image is larger.
        graph = expecting(graph, batch, data.fitted_size())
    with backend.prepare(graph) as session:
        # Of an engine it is known only now what it takes.
        batch = batch_size(session.artifact, args.batch_size, min(wanted, max_batch(session)))
        start = time.perf_counter()
        detections = collect(args, data, session, batch, threshold, places)
        seconds = time.perf_counter() - start
    count = len(detections)
    say(f"{count} images in {seconds:.1f} s ({seconds / count * 1e3:.1f} ms each)")
    if out:
        classes = None if proposals else len(data.coco.CLASSES)
        results = [mmdet_result(image, classes) for image in detections]
        try:
            with out.open("wb") as file:
                pickle.dump(results, file)
        except OSError as error:
            raise CommandError(f"--out: {out} cannot be written: {error.strerror}") from error
        say(f"Results: {out}")
        del results
    options = args.eval_options or {}
    if args.format_only:
        say(format_results(data, detections, options, proposals))
    if args.eval:
        start = time.perf_counter()
        figures = evaluate(data, detections, args.eval, options)
        say("\n".join(f"{name}: {value}" for name, value in figures.items()))
        say(f"Evaluated in {time.perf_counter() - start:.1f} s")
    return 0


def _opened(args: argparse.Namespace) -> Model:
    """The config; several data sets in its ``data.test`` are refused for what they are."""
    from pytest_onnxdet.models.wrapped import TAKEN_FROM

    model = open_config(args.config, args.cfg_options)
    require_detector(model)
    if taken := model.cfg.data.get(TAKEN_FROM):
        wrapper, count = taken["wrapper"], taken["count"]
        if count > 1:
            raise CommandError(
                f"{args.config}: data.test is {wrapper} of {count} data sets: test one at a time, "
                "with a config whose data.test is that one"
            )
        warn(f"{args.config}: data.test is {wrapper}: the data set inside is tested, once")
    return model


def named_backend(name: str) -> Backend:
    """The backend of that name; raises `CommandError` where it is missing."""
    from pytest_onnxdet.backends import builtin_backends

    backend = builtin_backends().get(name)
    why = f"{name} has no backend here" if backend is None else backend.missing()
    if backend is None or why is not None:
        raise CommandError(f"--backend {name}: {why}")
    return backend


def describe(path: Path, backend: str) -> Artifact:
    """A file as an artifact: what is not of this package's store has no record beside it."""
    from pytest_onnxdet.core.store import Artifact

    if path.suffix != ".onnx":
        if backend == "onnxruntime":
            raise CommandError(f"MODEL: {path}: onnxruntime runs .onnx files; give one")
        # An engine: what it takes is asked of it when it is loaded.
        return Artifact(path, "", cached=False, info={})
    import onnx

    from pytest_onnxdet.graph.foreign import foreign_domains

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise CommandError(
            f"MODEL: {path}: not a readable ONNX file ({type(error).__name__}): export it again"
        ) from error
    if not model.ByteSize() or not model.HasField("graph"):
        raise CommandError(f"MODEL: {path}: is empty: export it again")
    foreign = foreign_domains(model, backend)
    if foreign:
        raise CommandError(
            f"MODEL: {path}: needs custom operators of {in_words(foreign)}: export the detector "
            "with `onnxdet export`, whose graphs need none"
        )
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    names = [value.name for value in inputs]
    if "input" not in names or set(names) - {"input", "image_shape"}:
        raise CommandError(
            f"MODEL: {path}: takes {in_words(names) or 'nothing'}: a detector's graph takes input, "
            "and may take image_shape"
        )
    axes = inputs[names.index("input")].type.tensor_type.shape.dim
    shape = [d.dim_value if d.HasField("dim_value") else None for d in axes]
    info: dict[str, Any] = {
        "inputs": names,
        "outputs": [value.name for value in model.graph.output],
        "static_shape": None,
        "producer": model.producer_name,
        **{p.key: float(p.value) for p in model.metadata_props if p.key == THRESHOLD_NAME},
        **{p.key: p.value for p in model.metadata_props if p.key == IMAGE_MAPS_NAME},
    }
    if len(shape) == 4 and shape[1]:
        info["channels"] = shape[1]
    if len(shape) == 4 and all(shape):
        info["static_shape"] = shape
    return Artifact(path, "", cached=False, info=info)


def batch_size(artifact: Artifact, asked: int | None, configured: int = 1) -> int:
    """Images per batch.

    Args:
        artifact: the graph.
        asked: ``--batch-size``.
        configured: the config's, for a graph that takes any.

    Raises:
        CommandError: the graph was exported for another number.
    """
    fixed = artifact.static_shape
    if fixed is None:
        return asked or configured
    if asked not in (None, fixed[0]):
        raise CommandError(
            f"--batch-size {asked}: {artifact.path} takes batches of {fixed[0]}: leave the option "
            "out, or export with --batch or --dynamic-export"
        )
    return fixed[0]


def max_batch(session: Session) -> int | float:
    """The largest batch that a loaded engine was built for; of others, which take any, infinity."""
    from pytest_onnxdet.backends.tensorrt.session import TensorRTSession, is_engine

    if not isinstance(session, TensorRTSession) or not is_engine(session.artifact):
        return math.inf
    return session.profile.max[0] if session.profile else math.inf


def collect(
    args: argparse.Namespace,
    data: Dataset,
    session: Session,
    batch: int,
    threshold: float,
    places: Sequence[Path] = (),
) -> list[Detections]:
    """Every image's detections, in little memory; on the way images are painted into ``places``."""
    from pytest_onnxdet.commands.evaluate import check_masks
    from pytest_onnxdet.commands.pictures import paint, save
    from pytest_onnxdet.commands.results import check_detections
    from pytest_onnxdet.commands.window import Window
    from pytest_onnxdet.core.progress import Progress
    from pytest_onnxdet.data.detections import in_little_memory

    def images() -> Iterator[Detections]:
        index = 0
        for batch_detections in stream(data, session, batch, threshold):
            for image in batch_detections:
                check_detections(image, len(data.coco.CLASSES))
                check_masks(args.eval, image)
                if places or window.open:
                    picture = paint(
                        data.picture(index), image, data.coco.CLASSES, args.show_score_thr
                    )
                    if places:
                        save(places[index], picture)
                    window.show(picture, data.path(index).name)
                yield image.packed(probabilities=False)
                index += 1
            progress.at(index)

    with (
        Window(asked=args.show) as window,
        Progress("test", len(data), "images") as progress,
    ):
        return in_little_memory(images())


def stream(
    data: Dataset, session: Session, batch: int, threshold: float
) -> Iterator[list[Detections]]:
    """Detections of the whole data set, batch by batch; masks are cut at ``threshold``."""
    from pytest_onnxdet.commands.results import checked, detections
    from pytest_onnxdet.data.batches import Batches
    from pytest_onnxdet.export.exporter import PRODUCER
    from pytest_onnxdet.verify.checks import CheckFailed

    fixed = session.artifact.static_shape
    size = (fixed[2], fixed[3]) if fixed else None
    info = session.artifact.info
    stock, channels = info.get("producer") != PRODUCER, fixed[1] if fixed else info.get("channels")
    maps = image_maps(info)
    logits = maps is not None and maps.logits
    try:
        for inputs in Batches(data, batch, size, fill=fixed is not None, channels=channels):
            outputs = checked(session.run(inputs), inputs, stock=stock, logits=logits)
            yield detections(outputs, inputs, threshold, maps)
    except CheckFailed as error:
        raise CommandError(f"{session.artifact.path}: {error}") from error
