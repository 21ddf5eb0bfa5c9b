"""Repeat clean runs of the suite's parity under what may vary; not one may fail.

Usage: python tools/false_alarms.py [--models NAME,...] [--settings GLOB,...] [--images N]
       [--full-size PIXELS] [--log FILE] [--cache DIR] [-n PROCESSES]

A model run is one model's parity verdict, by the suite's own judge with measured noise, over N
images in one setting: another export, other threads, optimisation levels, memory, images, batches.
Each run is a line of the log as soon as it is done, and a run that the log has is not repeated. The
table has the runs and failures of each setting, and the largest share of each allowance that was
used. Exits with 1 when a run failed; shares of more than a half are listed, but fail nothing.

With --full-size the documented detectors stand in the minis' place: random calibrated weights, as
in the structure check, and grained scenes at most so many pixels long. Settings that shuffle the
images are left out, as the weights are calibrated on the first of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from prediction_sides import sized
from torch import nn

from pytest_onnxdet.backends.base import Session
from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeSession
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.datasets import Dataset, builtin_datasets, load_dataset
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.mini import mini_specs
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec, Tolerance
from pytest_onnxdet.models.structure import is_structure
from pytest_onnxdet.reference.threads import share_cores
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings, choose_models
from pytest_onnxdet.run.detectors import make_detector
from pytest_onnxdet.run.parity import noise_of, sides, tie_proofs
from pytest_onnxdet.verify.judge import Alternatives, Sides, judge
from pytest_onnxdet.verify.match import box_allowance, box_distance, match
from pytest_onnxdet.verify.noise import narrowed
from pytest_onnxdet.verify.verdict import TIED, Verdict

SHARES = ("raw", "box", "score", "mask")
HALF = 0.5


@dataclass(frozen=True)
class Setting:
    """What varies.

    Attributes:
        name: of the row.
        shape, batch: the case's.
        threads: of PyTorch, OpenCV and ONNX Runtime.
        level: ONNX Runtime's optimisation: ``disable_all``, ``basic`` or ``all``.
        arena: whether ONNX Runtime keeps its memory, and plans it.
        onednn: whether PyTorch may use oneDNN.
        order: seed that shuffles all images before the first N are taken; None: as they lie.
        fresh: export and record anew, in an empty cache.
    """

    name: str
    shape: str = "dynamic"
    batch: int = 2
    threads: int = 1
    level: str = "all"
    arena: bool = True
    onednn: bool = True
    order: int | None = None
    fresh: bool = False


SETTINGS = (
    Setting("as it is"),
    Setting("exported again", fresh=True),
    Setting("2 threads", threads=2),
    Setting("4 threads", threads=4),
    Setting("optimisation off", level="disable_all"),
    Setting("optimisation basic", level="basic"),
    Setting("arena off", arena=False),
    Setting("oneDNN off", onednn=False),
    Setting("oneDNN and optimisation off", onednn=False, level="disable_all"),
    Setting("2 threads, optimisation basic", threads=2, level="basic"),
    Setting("batches of 1", batch=1),
    Setting("batches of 3", batch=3),
    Setting("batches of 5", batch=5),
    Setting("static, batches of 1", shape="static", batch=1),
    Setting("static, batches of 2", shape="static"),
    Setting("static, batches of 3", shape="static", batch=3),
    *(Setting(f"shuffled, seed {seed}", order=seed) for seed in range(1, 7)),
    Setting("shuffled, seed 7, batches of 1", batch=1, order=7),
    Setting("shuffled, seed 8, batches of 3", batch=3, order=8),
    Setting("shuffled, seed 9, batches of 5", batch=5, order=9),
    Setting("shuffled, seed 10, arena and optimisation off", "dynamic", 2, 1, "disable_all", False,
            order=10),
)  # fmt: skip

#: As :func:`model_run`.
Run = Callable[..., dict[str, Any]]


class _Session(OnnxRuntimeSession):
    """ONNX Runtime's CPU under a setting."""

    def __init__(self, artifact: Artifact, setting: Setting) -> None:
        import onnxruntime as ort

        Session.__init__(self, artifact)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = setting.threads
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = {
            "disable_all": levels.ORT_DISABLE_ALL,
            "basic": levels.ORT_ENABLE_BASIC,
            "all": levels.ORT_ENABLE_ALL,
        }[setting.level]
        options.enable_cpu_mem_arena = options.enable_mem_pattern = setting.arena
        self._device = "cpu"
        self._session = ort.InferenceSession(
            str(artifact.path), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]


class _Backend(OnnxRuntimeBackend):
    """The built-in backend, by name and lowering, with sessions of a setting."""

    def __init__(self, setting: Setting) -> None:
        super().__init__("cpu")
        self._setting = setting

    def prepare(self, artifact: Artifact, threads: int | None = None) -> Session:
        return _Session(artifact, self._setting)


class _Shuffled(Workbench):
    """A workbench whose data sets are shuffled before they are cut.

    Random weights are calibrated once for all settings, as graphs are: on other threads they would
    be other weights.
    """

    seed: int | None = None
    _calibrated: ClassVar[list[tuple[ModelSpec, nn.Module]]] = []

    def detector(self, spec: ModelSpec) -> nn.Module:
        if not is_structure(spec):
            return super().detector(spec)
        if not any(one == spec for one, _ in self._calibrated):
            self._calibrated.clear()  # a large one at a time
            made = make_detector(
                spec, self.settings.cache, 1, lambda: self.dataset(spec), self.families
            )
            self._calibrated.append((spec, made))
        share_cores(self.threads)
        return self._calibrated[0][1]

    def dataset(self, spec: ModelSpec) -> Dataset:
        def load() -> Dataset:
            from pytest_onnxdet.models.build import load_config

            made = load_dataset(self.datasets.get(spec.dataset), load_config(spec))
            chosen = np.arange(len(made))
            if self.seed is not None:
                np.random.default_rng(self.seed).shuffle(chosen)
            made.keep_only(chosen[: self.settings.limit].tolist())
            return made

        return self._once(spec, ("dataset",), load)


def _spec(model: str, full_size: int | None) -> ModelSpec:
    if full_size is None:
        return next(one for one in mini_specs() if one.name == model)
    wanted = Settings(cache=Path(), models=(model,), profile="full", random_weights=True)
    (spec,) = choose_models(wanted, builtin_registry())
    return sized(spec, full_size)


def model_run(
    model: str, setting: Setting, images: int, cache: Path, full_size: int | None = None
) -> dict[str, Any]:
    """One model's parity over so many images in a setting.

    Args:
        model: its name.
        setting: what varies.
        images: how many.
        cache: of graphs and recordings.
        full_size: the longer side of the documented detector's images; None: the mini runs.

    Returns:
        ``ok``, ``faults`` (texts), ``shares`` (by :data:`SHARES`, None where nothing was compared),
        ``tied`` images and ``detections``.
    """
    import torch

    spec = _spec(model, full_size)
    with contextlib.ExitStack() as stack:
        # Graphs are the same whatever PyTorch runs on; what PyTorch finds is not.
        place = cache / f"threads{setting.threads}-onednn{setting.onednn:d}"
        if setting.fresh:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            place.mkdir(parents=True, exist_ok=True)
            graphs = cache / "graphs"
            graphs.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (place / "graphs").symlink_to(graphs.resolve())
        stack.enter_context(torch.backends.mkldnn.flags(enabled=setting.onednn))
        settings = Settings(cache=place, limit=images, batches=(setting.batch,))
        bench = _Shuffled(settings, builtin_datasets(), threads=setting.threads)
        bench.seed = setting.order
        stack.enter_context(bench)
        case = Case(spec, _Backend(setting), setting.shape, setting.batch)
        tolerance = spec.tolerance(case.backend.name, case.precision, "cpu")
        both = sides(bench, case, bench.results(case), bench.candidates(case))
        proofs = tie_proofs(bench, case, tolerance)
        verdict = judge(both, tolerance, proofs)
        noise = noise_of(bench, case)
        allowed = tolerance if noise is None else narrowed(tolerance, noise)
        return {
            "ok": verdict.ok,
            "faults": list(verdict.faults),
            "shares": shares(verdict, both, allowed, proofs.alternatives),
            "tied": len(verdict.tied),
            "detections": verdict.metrics.get("detections"),
        }


def shares(
    verdict: Verdict, both: Sides, allowed: Tolerance, alternatives: Alternatives | None = None
) -> dict[str, float | None]:
    """The largest part of each allowance that was used, of what no tie decided otherwise.

    Args:
        verdict: of both sides.
        both: what was compared.
        allowed: the allowances.
        alternatives: what PyTorch might have detected as well. Images in which more than half of an
            allowance is used are held to these, too: a tie may be within the allowance, so that
            the judge did not ask about it, and is no rounding.
    """
    used: dict[str, float | None] = dict.fromkeys(SHARES)
    used["raw"] = verdict.metrics.get("raw_share")
    tied = {image.index for image in verdict.tied if image.outcome == TIED}
    for index, (ours, theirs) in enumerate(zip(both.reference, both.candidate, strict=True)):
        if index in tied:
            continue
        of_image = _of_image(ours, theirs, allowed)
        if alternatives is not None and max(of_image.values(), default=0.0) >= HALF:
            others = (_of_image(o, theirs, allowed) for o in alternatives(index, theirs, False))
            of_image = min([of_image, *filter(None, others)], key=lambda one: max(one.values()))
        for name, value in of_image.items():
            used[name] = max(used[name] or 0.0, value)
    return used


def _of_image(ours: Detections, theirs: Detections, allowed: Tolerance) -> dict[str, float]:
    """The largest part of each allowance in one image; empty where nothing is matched."""
    used: dict[str, float] = {}
    limits = box_allowance(ours.boxes, allowed)
    for i, j in match(ours, theirs, allowed):
        gap = box_distance(ours.boxes[i : i + 1], theirs.boxes[j : j + 1]).item()
        drift = abs(float(ours.scores[i]) - float(theirs.scores[j]))
        parts = {"box": gap / limits[i], "score": drift / allowed.score}
        if ours.mask_probs is not None and theirs.mask_probs is not None:
            probs, got = ours.mask_probs[i], theirs.mask_probs[j].astype(np.float64)
            low, high = (probs, probs) if ours.mask_range is None else ours.mask_range[i]
            beyond = np.maximum(low - got, got - high)
            parts["mask"] = float(beyond.max(initial=0.0)) / allowed.mask_prob
        for name, value in parts.items():
            used[name] = max(used.get(name, 0.0), float(value))
    return used


def table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A Markdown table, setting by setting, and a row of all."""
    lines = ["| setting | runs | failures | raw | box | score | mask |", "|---|" + "---:|" * 6]
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        rows.setdefault(entry["setting"], []).append(entry)
    for name, of_setting in [*rows.items(), ("all", list(entries))]:
        failed = sum(not entry["ok"] for entry in of_setting)
        cells = []
        for kind in SHARES:
            values = [v for e in of_setting if (v := e["shares"][kind]) is not None]
            cells.append(f"{max(values):.2f}" if values else "")
        lines.append(f"| {name} | {len(of_setting)} | {failed} | {' | '.join(cells)} |")
    return lines


def remarks(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every failure, and every share of more than a half."""
    lines = []
    for entry in entries:
        where = f"{entry['model']}, {entry['setting']}"
        lines += [f"FAILED {where}: {fault}" for fault in entry["faults"]]
        lines += [
            f"above half {where}: {kind} {value:.2f}"
            for kind, value in entry["shares"].items()
            if value is not None and value >= HALF
        ]
    return lines


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["model"], entry["setting"], entry["images"], entry.get("full_size")


def _results(
    jobs: Sequence[tuple[str, Setting, int, Path]], run: Run, processes: int
) -> Iterator[dict[str, Any]]:
    if processes == 1:
        yield from (_entry(run, *job) for job in jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_entry, [run] * len(jobs), *zip(*jobs, strict=True))


def _entry(run: Run, model: str, setting: Setting, images: int, cache: Path) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        result = run(model, setting, images, cache)
    except Exception as error:  # a run that breaks is a false alarm, too
        fault = f"{type(error).__name__}: {error}"
        result = {"ok": False, "faults": [fault], "shares": dict.fromkeys(SHARES)}
    seconds = round(time.perf_counter() - start, 2)
    return {"model": model, "setting": setting.name, "images": images, **result, "seconds": seconds}


def main(argv: Sequence[str] | None = None, run: Run = model_run) -> int:
    """Run what the log lacks, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="", help="names; default: all twelve")
    parser.add_argument("--settings", default="*", help="globs over their names, comma-separated")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--full-size", type=int, metavar="PIXELS", help="of the longer side")
    parser.add_argument("--log", type=Path, default=Path("false_alarms.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path(".onnxdet_cache") / "false_alarms")
    parser.add_argument("-n", type=int, default=1, dest="processes", help="runs at once")
    args = parser.parse_args(argv)
    names = [spec.name for spec in mini_specs()]
    models = args.models.split(",") if args.models else names
    globs = [glob.strip() for glob in args.settings.split(",")]
    full = args.full_size
    run = run if full is None else partial(run, full_size=full)
    usable = [s for s in SETTINGS if full is None or s.order is None]
    settings = [s for s in usable if any(fnmatch(s.name, glob) for glob in globs)]
    unknown = [name for name in models if name not in names]
    if unknown or not settings:
        parser.error(f"no model {', '.join(unknown)}" if unknown else f"no setting {globs}")
    wanted = [(m, s, args.images, args.cache) for s in settings for m in models]
    done: dict[tuple[Any, ...], dict[str, Any]] = {}
    if args.log.exists():
        for line in args.log.read_text().splitlines():
            entry = json.loads(line)
            done[_key(entry)] = entry
    missing = [job for job in wanted if (job[0], job[1].name, job[2], full) not in done]
    if full is not None:  # calibrating takes longer than a run
        missing.sort(key=lambda job: models.index(job[0]))
    with args.log.open("a") as log:
        for entry in _results(missing, run, args.processes):
            if full is not None:
                entry["full_size"] = full
            done[_key(entry)] = entry
            print(json.dumps(entry), file=log, flush=True)
            state = "ok" if entry["ok"] else "FAILED"
            print(f"{entry['model']}, {entry['setting']}: {state}", file=sys.stderr, flush=True)
    entries = [done[m, s.name, images, full] for m, s, images, _ in wanted]
    print("\n".join([*table(entries), "", *remarks(entries)]))
    return int(any(not entry["ok"] for entry in entries))


if __name__ == "__main__":
    raise SystemExit(main())
