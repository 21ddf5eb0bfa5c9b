"""The self-test at a bench whose detector is tiny: what it calls, and that it can fail."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeBackend
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.core.vocabulary import STRUCTURE
from pytest_onnxdet.data.batches import Batches, Sample
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.data.detections import from_outputs
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.reference.noise import MapNoise, Noise
from pytest_onnxdet.reference.recording import Recording
from pytest_onnxdet.run import selftest
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings
from pytest_onnxdet.run.selftest import SelfTest
from pytest_onnxdet.testing import tiny
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.mutants import operators
from pytest_onnxdet.verify.selftest import CAUGHT, EQUIVALENT, NOWHERE, SURVIVED
from pytest_onnxdet.verify.verdict import Verdict

BY_NAME = {operator.name: operator for operator in operators()}
CELLS: list[dict[tuple[int, int], tuple[str, float]]] = [
    {(1, 1): ("red", 0.9), (3, 4): ("white", 0.7)},
    {(2, 2): ("white", 0.8)},
    {(0, 5): ("red", 0.6), (6, 1): ("white", 0.9), (4, 4): ("red", 0.8)},
]


class Drawn:
    """Three images of 32 x 32."""

    def __len__(self) -> int:
        return len(CELLS)

    def sample(self, index: int) -> Sample:
        image = tiny.feeds([CELLS[index]])["input"][0]
        meta = {
            "img_shape": (32, 32, 3),
            "ori_shape": (32, 32, 3),
            "scale_factor": np.ones(4, np.float32),
            "filename": f"{index}.png",
        }
        return Sample(image, meta)


class TinyBench(Workbench):
    """The real one, with a detector of two layers in place of mmdet's."""

    folder: Path

    def detector(self, spec: ModelSpec) -> Any:
        return SimpleNamespace(cfg=SimpleNamespace(model={}))

    def reference(self, spec: ModelSpec) -> Any:
        ties = SimpleNamespace(images=0.0, proposals=False, peaks=False)
        return SimpleNamespace(family=SimpleNamespace(ties=ties))

    def names(self, case: Case) -> list[str]:
        return [f"{index}.png" for index in range(len(CELLS))]

    def batches(self, case: Case) -> Batches:
        return Batches(Drawn(), case.batch)

    def artifact(self, case: Case, postprocess: bool = True) -> Artifact:
        made = tiny.artifact(self.folder)
        # Its slots are of a fixed number, as in that lowering.
        made = dataclasses.replace(made, info={**made.info, "lowering": "tensorrt"})
        if postprocess:
            return dataclasses.replace(made, key="tiny")
        model = tiny.model()
        del model.graph.output[:]
        model.graph.output.append(
            onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
        )
        path = self.folder / "raw.onnx"
        onnx.save(model, path)
        return dataclasses.replace(made, path=path, key="raw")

    def recording(self, case: Case) -> Recording:
        batches = list(self.batches(case))
        results = [
            one
            for b in batches
            for one in from_outputs(
                tiny.expected({"input": b.images, "image_shape": b.image_shape}), b
            )
        ]
        session = self.session(case, postprocess=False)
        raw = [session.run(batch) for batch in batches]
        noise = Noise(
            exact=[{"logits": one["logits"].astype(np.float64)} for one in raw],
            maps={"logits": MapNoise(1e-6, 1e-6, 1e-6)},
        )
        names, sizes = tuple(self.names(case)), ((32, 32),) * len(CELLS)
        return Recording("", case.batch, names, sizes, tuple(results), tuple(raw), {}, noise)


@pytest.fixture
def mutants(tmp_path: Path) -> Any:
    spec = ModelSpec("tiny", "none.py", profile=STRUCTURE, classes=("white", "red"))
    case = Case(spec, OnnxRuntimeBackend("cpu"), "dynamic", 3)
    settings = Settings(cache=tmp_path / "cache")
    with TinyBench(settings, builtin_datasets(), threads=1) as bench:
        bench.folder = tmp_path
        with SelfTest(bench, case) as made:
            yield made


def test_the_good_graph_passes_and_a_bad_one_ends_the_self_test(
    mutants: SelfTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants.require_good()
    results = mutants.bench.results(mutants.case)
    moved = [dataclasses.replace(one, boxes=one.boxes + 1) for one in results]
    monkeypatch.setattr(mutants.bench, "results", lambda case: moved)
    monkeypatch.setattr(selftest.MutantBench, "results", lambda self, case: moved)
    with pytest.raises(CheckFailed, match="before any fault"):
        mutants.require_good()


@pytest.mark.parametrize("operator", operators(), ids=lambda o: o.name)
def test_every_fault_is_caught_or_the_same(mutants: SelfTest, operator: Any) -> None:
    result = mutants.run(operator)
    assert result.outcome in (CAUGHT, EQUIVALENT, NOWHERE), result
    assert (result.outcome == CAUGHT) == bool(result.check)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("scale_weight_1.0004", "raw"),
        ("input_mean", "raw"),
        ("box_shift", "detections"),
        ("ghosts", "contract"),
        ("rows_repeat_second", "detections"),
        ("label_type", "export"),
    ],
)
def test_by_the_check_that_is_meant_to(mutants: SelfTest, name: str, check: str) -> None:
    assert mutants.run(BY_NAME[name]).check == check


def test_what_no_batch_shows_is_not_applicable(mutants: SelfTest) -> None:
    mutants.case = dataclasses.replace(mutants.case, batch=2)
    result = mutants.run(BY_NAME["rows_repeat_second"])
    assert (result.outcome, result.reason) == (NOWHERE, "it shows in batches of 3 and more")


def test_a_blind_judge_fails_the_self_test(
    mutants: SelfTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "judge", lambda *_: Verdict({}))
    result = mutants.run(BY_NAME["box_shift"])
    assert result.outcome == SURVIVED
    with pytest.raises(CheckFailed, match="the suite does not see that boxes are half a pixel off"):
        result.raise_for("case")


@pytest.mark.parametrize(
    "name", ["scale_weight_1.0004", "input_mean", "box_shift", "ghosts", "rows_repeat_second"]
)
def test_an_early_end_is_the_same_verdict_and_leaves_no_file(mutants: SelfTest, name: str) -> None:
    early = SelfTest(mutants.bench, mutants.case, early=True)
    with early:
        early.require_good()
        full, short = (one.run(BY_NAME[name]) for one in (mutants, early))
        assert not list(Path(early._folder.name).iterdir())
    assert full.outcome == short.outcome == CAUGHT
    assert (full.check, full.margin) == (short.check, short.margin)


@pytest.mark.parametrize(("fault", "ok"), [("box_shift", False), ("ghosts", False), (None, True)])
def test_an_early_end_looks_at_the_first_images_first(
    mutants: SelfTest, fault: str | None, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many images; and what is red there is red on all."""
    monkeypatch.setattr(selftest, "SELFTEST_IMAGES", 1)
    mutants.case = dataclasses.replace(mutants.case, batch=1)
    ran: list[int] = []
    whole = selftest.MutantBench.candidates

    def watched(self: Any, case: Case) -> Any:
        ran.append(case.batch)
        return whole(self, case)

    monkeypatch.setattr(selftest.MutantBench, "candidates", watched)
    with SelfTest(mutants.bench, mutants.case, early=True) as early:
        if fault is None:
            early.require_good()
        else:
            result = early.run(BY_NAME[fault])
            assert (result.outcome, result.check) == (CAUGHT, mutants.run(BY_NAME[fault]).check)
            ran.pop()  # that of the thorough one
    assert bool(ran) == ok


def test_a_share_of_ties_is_asked_of_all_images(
    mutants: SelfTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first images may hold all there are."""
    monkeypatch.setattr(selftest, "SELFTEST_IMAGES", 1)
    shares: list[float] = []

    def judged(both: Any, tolerance: Any, proofs: Any) -> Verdict:
        shares.append(proofs.max_share)
        return Verdict({})

    monkeypatch.setattr(selftest, "judge", judged)
    mutants.case = dataclasses.replace(mutants.case, batch=1)
    with SelfTest(mutants.bench, mutants.case, early=True) as early:
        early.run(BY_NAME["box_shift"])
    spec = mutants.case.spec
    assert shares == [1.0, spec.tied_images, spec.tied_images]


def test_what_is_the_same_to_the_bit_needs_no_verdict(
    mutants: SelfTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good graph's holds."""
    same = [
        name
        for name in (
            "epsilon",
            "padded_shape",
            "conv_dilation",
            "clip_tightened",
            "box_border_none",
        )
        if name in BY_NAME and mutants.run(BY_NAME[name]).outcome == EQUIVALENT
    ]
    assert same
    with SelfTest(mutants.bench, mutants.case, early=True) as early:
        early.require_good()
        monkeypatch.setattr(selftest, "judge", None)
        for name in same:
            assert early.run(BY_NAME[name]).outcome == EQUIVALENT


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("scale_weight_1.0004", ["raw"]),
        ("box_shift", ["candidates", "raw"]),
        ("batch_order", ["candidates", "raw"]),
    ],
)
def test_an_early_end_runs_nothing_after_the_first_red(
    mutants: SelfTest, name: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    for what in ("candidates", "raw", "singles"):
        original = getattr(selftest.MutantBench, what)

        def watched(self: Any, case: Case, what: str = what, original: Any = original) -> Any:
            seen.append(what)
            return original(self, case)

        monkeypatch.setattr(selftest.MutantBench, what, watched)
    with SelfTest(mutants.bench, mutants.case, early=True) as early:
        assert early.run(BY_NAME[name]).outcome == CAUGHT
    assert sorted(set(seen)) == asked
