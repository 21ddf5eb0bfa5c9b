"""What the latency benchmarks share: which models, on what, with how many threads."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pytest_onnxdet.backends import builtin_backends
from pytest_onnxdet.core.cpu import cores
from pytest_onnxdet.core.paths import user_cache
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.models.structure import structure_spec
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import SHAPES, Case, Settings


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark takes."""
    made = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    made.add_argument("--model", nargs="+", metavar="NAME", help="globs; default: every mini")
    made.add_argument("--batch", nargs="+", type=int, default=[1, 2], metavar="N")
    made.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    made.add_argument("--threads", type=int, default=cores(), help="default: every core")
    made.add_argument("--seconds", type=float, default=2.0, help="of measuring, for each case")
    made.add_argument("--images", type=int, default=6, help="of the data set; default: 6")
    return made


def specs(args: argparse.Namespace) -> list[ModelSpec]:
    """The asked-for minis that have weights; with ``--full`` the documented models without any."""
    registry, names = builtin_registry(), tuple(args.model or ())
    if getattr(args, "full", False):
        return [structure_spec(spec) for spec in registry.select(names, "full")]
    chosen = registry.select(names, "mini")
    for spec in chosen:
        if not Path(str(spec.weights)).is_file():
            print(f"{spec.name}: no weights, left out")
    return [spec for spec in chosen if Path(str(spec.weights)).is_file()]


@contextmanager
def bench(args: argparse.Namespace) -> Iterator[Workbench]:
    """A workbench with the asked-for threads. Graphs are kept in the cache; results are not."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Workbench(
            Settings(cache=Path(folder), limit=args.images),
            builtin_datasets(),
            threads=args.threads,
        ) as made,
    ):
        from pytest_onnxdet.core.store import ArtifactStore

        made.store = ArtifactStore(user_cache() / "graphs")
        yield made


def cases(spec: ModelSpec, args: argparse.Namespace) -> list[Case]:
    """The model's cases on ONNX Runtime."""
    backend = builtin_backends()["onnxruntime"]
    return [Case(spec, backend, shape, batch) for shape in args.shape for batch in args.batch]


def batches(made: Workbench, case: Case, limit: int = 3) -> list[Any]:
    """The first batches of a case."""
    return list(islice(made.batches(case), limit))
