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
    from pytest_onnxdet.verify.verdict import Verdict

#: What may come out. Only the last two are faults of the project.
EXACT, REFUSED, UNBUILDABLE, DIFFERS, FAILED = (
    "exact",
    "refused",
    "unbuildable",
    "differs",
    "failed",
)
OUTCOMES = {
    EXACT: "exports, and detects in ONNX Runtime what PyTorch detects",
    REFUSED: "a part has no lowering, and its name is said before anything is traced",
    UNBUILDABLE: "mmdet cannot build it here",
    DIFFERS: "exports, and detects something else",
    FAILED: "neither verified nor refused by name",
}
#: The longer side of the images, pixels, and the batch size.
SIZE, BATCH = 160, 2
#: Proposals and detections of an image at most, where there is a second stage: of a small image its
#: regions take most of the time.
PROPOSALS, DETECTIONS = 256, 16
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
    for place, owner in (("model.test_cfg", cfg.model), ("test_cfg", cfg)):
        for stage, limit in (("rpn", PROPOSALS), ("rcnn", DETECTIONS)):
            settings = (owner.get("test_cfg") or {}).get(stage) or {}
            if (settings.get("max_per_img") or 0) > limit:
                yield f"{place}.{stage}.max_per_img", limit


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
    found = _tried(config, size, families)
    return replace(found, seconds=round(time.perf_counter() - start, 1))


def _tried(config: Path, size: int, families: FamilyRegistry | None) -> Covered:
    from pytest_onnxdet.export.options import NoLoweringError
    from pytest_onnxdet.families.classes import NotCalibratedError, UnsupportedPart
    from pytest_onnxdet.models.checkpoint import BuildError
    from pytest_onnxdet.verify.checks import CheckFailed

    name = str(config)
    try:
        spec = covering_spec(config, size)
        return _judged(spec, name, families)
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
        both = sides(bench, case, bench.results(case), bench.candidates(case))
        verdict = judge(
            replace(both, every_image=True), tolerance, tie_proofs(bench, case, tolerance)
        )
        shapes = [batch.images.shape for batch in bench.batches(case)]
        sizes = {(height, width) for _, _, height, width in shapes}
        return _covered(verdict, config, tuple(sorted(sizes)))


def _covered(verdict: Verdict, config: str, sizes: tuple[tuple[int, int], ...]) -> Covered:
    names = ("detections", "max_box_px", "max_score", "max_mask", "raw_share", "tied_images")
    figures = {name: verdict.metrics.get(name) for name in names}
    outcome = EXACT if verdict.ok else DIFFERS
    return Covered(config, outcome, "\n".join(verdict.faults), sizes, figures)
