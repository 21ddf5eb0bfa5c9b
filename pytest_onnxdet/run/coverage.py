"""Can a config's detector be verified? Tried for real, with random weights that find something."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.models.names import class_count, numbered
from pytest_onnxdet.models.own import model_name
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.structure import GRAINED, structure_spec
from pytest_onnxdet.run.bench import Workbench

if TYPE_CHECKING:
    from pytest_onnxdet.data.datasets import Dataset
    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.reference.noise import Noise
    from pytest_onnxdet.verify.verdict import Verdict

#: What may come out. Only the last two are faults of the project.
EXACT, REFUSED, UNBUILDABLE, UNDECIDED, DIFFERS, FAILED = (
    "exact",
    "refused",
    "unbuildable",
    "undecided",
    "differs",
    "failed",
)
OUTCOMES = {
    EXACT: "exports, and detects in ONNX Runtime what PyTorch detects",
    REFUSED: "a part has no lowering, and its name is said before anything is traced",
    UNBUILDABLE: "mmdet cannot build it here",
    UNDECIDED: "PyTorch itself fails on such images, finds nothing, or other things in float64",
    DIFFERS: "exports, and detects something else",
    FAILED: "neither verified nor refused by name",
}
#: The longer side of the images, pixels, and the batch size.
SIZE, BATCH = 160, 2
#: Proposals and detections of an image at most, where there is a second stage: of a small image its
#: regions take most of the time.
PROPOSALS, DETECTIONS = 256, 16
#: How much larger images are tried in turn where nothing can be decided with smaller ones.
LARGER = (1.0, 1.6, 2.8)
#: The share of PyTorch's detections that float64 has, too, at least. Ties cost a few of them; of a
#: network that amplifies rounding, as random weights in many stages may, most differ.
STABLE = 0.9
#: Layers of a backbone at most: deeper ones repeat the same blocks.
DEPTH = 50


@dataclass(frozen=True)
class Covered:
    """What came out for a config.

    Attributes:
        config: its path.
        outcome: of :data:`OUTCOMES`.
        reason: why it is not exact; empty where it is.
        sizes: (height, width) of the batches that ran.
        figures: ``detections``, and the worst differences as parity's metrics name them.
        seconds: how long it took.
    """

    config: str
    outcome: str
    reason: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    figures: Mapping[str, Any] | None = None
    seconds: float = 0.0


def covering_spec(config: Path, size: int = SIZE) -> ModelSpec:
    """A spec of a config with random weights, small images, fewer regions and no deep backbone.

    Args:
        config: the file.
        size: the longer side of the images, pixels; images that are smaller stay.

    Raises:
        BuildError: the config cannot be read.
    """
    from pytest_onnxdet.data.masks import has_masks
    from pytest_onnxdet.models.build import load_config

    plain = ModelSpec(model_name(config), str(config.resolve()))
    cfg = load_config(plain)
    spec = structure_spec(
        replace(
            plain,
            overrides={
                **dict(_smaller(cfg.data.test.pipeline, size)),
                **dict(_fewer_regions(cfg)),
                **_shallower(cfg),
            },
            classes=numbered(class_count(cfg.model) or 0),
            masks=has_masks(cfg.model),
        ),
        GRAINED,
    )
    return replace(spec, weights=f"{spec.weights}, {size} px")


def _shallower(cfg: Any) -> dict[str, Any]:
    """Overrides after which a ResNet, or what has its depths, has at most `DEPTH` layers."""
    depth = (cfg.model.get("backbone") or {}).get("depth")
    return {"model.backbone.depth": DEPTH} if isinstance(depth, int) and depth > DEPTH else {}


def _fewer_regions(cfg: Any) -> Iterator[tuple[str, Any]]:
    """Overrides after which a second stage has at most `PROPOSALS`, and gives `DETECTIONS`."""
    if not cfg.model.get("roi_head"):
        return
    for stage, limit in (("rpn", PROPOSALS), ("rcnn", DETECTIONS)):
        settings = (cfg.model.get("test_cfg") or {}).get(stage) or {}
        if (settings.get("max_per_img") or 0) > limit:
            yield f"model.test_cfg.{stage}.max_per_img", limit


def _smaller(pipeline: Sequence[Any], size: int) -> Iterator[tuple[str, Any]]:
    """Overrides after which a pipeline's images are at most so large, pixels."""

    def walk(steps: Sequence[Any], place: str) -> Iterator[tuple[str, Any]]:
        for number, step in enumerate(steps):
            if not isinstance(step, Mapping):
                continue
            here = f"{place}.{number}"
            for name in ("img_scale", "size"):
                value = step.get(name)
                if value is None:
                    continue
                scales = value if isinstance(value, list) else [value]
                longest = max(max(scale) for scale in scales)
                if longest > size:
                    factor = size / longest
                    smaller = [tuple(max(32, round(a * factor)) for a in one) for one in scales]
                    yield f"{here}.{name}", smaller if isinstance(value, list) else smaller[0]
            yield from walk(step.get("transforms") or (), f"{here}.transforms")

    yield from walk(pipeline, "data.test.pipeline")


def cover(config: Path, size: int = SIZE, families: FamilyRegistry | None = None) -> Covered:
    """Tries a config: builds, exports dynamically, runs and judges it.

    Args:
        config: the file.
        size: the longer side of the images, pixels.
        families: how detectors are lowered; None: the built-in families.

    Returns:
        What came out; nothing is raised for a detector that cannot be verified.
    """
    start = time.perf_counter()
    for times in LARGER:
        found = _tried(config, round(size * times), families)
        if found.outcome != UNDECIDED:
            break
    return replace(found, seconds=round(time.perf_counter() - start, 1))


def _tried(config: Path, size: int, families: FamilyRegistry | None) -> Covered:
    from pytest_onnxdet.export.options import NoLoweringError
    from pytest_onnxdet.families.classes import NotCalibratedError, UnsupportedPart
    from pytest_onnxdet.models.calibrate import DetectorFails
    from pytest_onnxdet.models.checkpoint import BuildError
    from pytest_onnxdet.reference.detector import PyTorchFails
    from pytest_onnxdet.verify.checks import CheckFailed

    name = str(config)
    try:
        spec = covering_spec(config, size)
        return _judged(spec, name, families)
    except (DetectorFails, PyTorchFails) as error:
        return Covered(name, UNDECIDED, str(error))
    except NotCalibratedError as error:
        return Covered(name, FAILED, str(error))
    except (UnsupportedPart, NoLoweringError) as error:
        return Covered(name, REFUSED, str(error))
    except (BuildError, ImportError) as error:
        return Covered(name, UNBUILDABLE, str(error))
    except CheckFailed as error:
        return Covered(name, DIFFERS, str(error))
    except Exception as error:
        return Covered(name, FAILED, f"{type(error).__name__}: {error}")


class _WideAndTall(Workbench):
    """A workbench with a batch of wide images, then one of tall ones.

    So they have sizes of their own where the pipeline lets them.
    """

    def dataset(self, spec: ModelSpec) -> Dataset:
        def load() -> Dataset:
            from pytest_onnxdet.data.datasets import load_dataset
            from pytest_onnxdet.models.build import load_config

            made = load_dataset(self.datasets.get(spec.dataset), load_config(spec))
            wide = [info["width"] > info["height"] for info in made.coco.data_infos]
            of_kinds = [[i for i, one in enumerate(wide) if one is kind] for kind in (True, False)]
            made.keep_only([number for of_kind in of_kinds for number in of_kind[:BATCH]])
            return made

        return self._once(spec, ("dataset",), load)


def _judged(spec: ModelSpec, config: str, families: FamilyRegistry | None) -> Covered:
    from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
    from pytest_onnxdet.data.datasets import builtin_datasets
    from pytest_onnxdet.run.cases import Case, Settings
    from pytest_onnxdet.run.parity import sides, tie_proofs
    from pytest_onnxdet.verify.judge import judge

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(cache=folder, batches=(BATCH,))
        bench = stack.enter_context(_WideAndTall(settings, builtin_datasets(), 1, families))
        case = Case(spec, OnnxRuntimeBackend("cpu"), "dynamic", BATCH)
        tolerance = spec.tolerance(case.backend.name)
        reference = bench.results(case)
        shapes = [batch.images.shape for batch in bench.batches(case)]
        sizes = tuple(sorted({(height, width) for _, _, height, width in shapes}))
        empty = [name for name, one in zip(bench.names(case), reference, strict=True) if not one]
        if empty:
            return Covered(config, UNDECIDED, f"PyTorch finds nothing in {', '.join(empty)}", sizes)
        both = sides(bench, case, reference, bench.candidates(case))
        verdict = judge(
            replace(both, every_image=True), tolerance, tie_proofs(bench, case, tolerance)
        )
        noise = bench.recording(case).noise
        return _covered(verdict, config, sizes, sum(map(len, reference)), noise)


def _covered(
    verdict: Verdict,
    config: str,
    sizes: tuple[tuple[int, int], ...],
    count: int,
    noise: Noise | None,
) -> Covered:
    """What a verdict says.

    Args:
        verdict: the judge's.
        config: the config's path.
        sizes: of the batches.
        count: PyTorch's detections; all images are among those of the noise.
        noise: how many of them are float64's, too.
    """
    names = ("detections", "max_box_px", "max_score", "max_mask", "raw_share", "tied_images")
    figures = {name: verdict.metrics.get(name) for name in names}
    if verdict.ok:
        return Covered(config, EXACT, "", sizes, figures)
    # None where mmdet's own code does not run in float64.
    same = noise.detections if noise is not None else 0
    if 0 < same < STABLE * count:
        why = f"of PyTorch's {count} detections {same} are the same in float64"
        return Covered(config, UNDECIDED, why, sizes, figures)
    return Covered(config, DIFFERS, "\n".join(verdict.faults), sizes, figures)
