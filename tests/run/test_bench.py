"""The workbench without a detector: what it memoises, shares out and asks of the exporter."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pytest_onnxdet.backends.base import Arrays, Backend, Session
from pytest_onnxdet.backends.registry import BackendRegistry
from pytest_onnxdet.core.cpu import fair_share
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.core.vocabulary import DEFAULT_BATCHES
from pytest_onnxdet.data.batches import Sample
from pytest_onnxdet.data.datasets import builtin_datasets
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.families.family import Ties
from pytest_onnxdet.models.checkpoint import BuildError
from pytest_onnxdet.models.registry import builtin_registry
from pytest_onnxdet.models.spec import ModelSpec, Tolerance
from pytest_onnxdet.reference.ties import proof
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import Case, Settings, make_cases
from pytest_onnxdet.run.recordings import Recordings
from pytest_onnxdet.run.ties import alternatives

NOTHING = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
SPECS = (ModelSpec("one_net", "one.py"), ModelSpec("two_net", "two.py"))


class CountingSession(Session):
    batches: list[tuple[int, ...]]

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.batches = []

    def _run(self, feeds: Arrays) -> Arrays:
        self.batches.append(feeds["input"].shape)
        count = len(feeds["input"])
        return {
            "dets": np.ones((count, 1, 5), np.float32),
            "labels": np.zeros((count, 1), np.int64),
        }


class CountingBackend(Backend):
    name = "counting"

    def missing(self) -> str | None:
        return None

    def prepare(self, artifact: Artifact, threads: int | None = None) -> Session:
        return CountingSession(artifact)


class Images:
    """Three images of different sizes."""

    sizes = ((20, 30), (40, 10), (25, 25))

    def __len__(self) -> int:
        return len(self.sizes)

    def sample(self, index: int) -> Sample:
        height, width = self.sizes[index]
        meta = {
            "img_shape": (height, width, 3),
            "ori_shape": (height, width, 3),
            "scale_factor": np.ones(4, np.float32),
        }
        return Sample(np.zeros((3, height, width), np.float32), meta)

    def fitted_size(self) -> tuple[int, int]:
        return 64, 32


class Bench(Workbench):
    def detector(self, spec: ModelSpec) -> Any:
        return SimpleNamespace(cfg=SimpleNamespace(model={}))

    def dataset(self, spec: ModelSpec) -> Any:
        return Images()

    def _export(self, case: Case, options: Any) -> Artifact:
        def build(path: Path) -> dict[str, Any]:
            path.write_text("graph")
            shape = [options.batch, 3, *options.size] if options.shape == "static" else None
            return {"inputs": ["input", "image_shape"], "static_shape": shape}

        return self.store.get({"model": case.spec.name, "options": str(options)}, build)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Bench(Settings(cache=tmp_path), datasets=None)  # type: ignore[arg-type]


@pytest.fixture
def cases(tmp_path: Path) -> dict[str, Case]:
    backends = BackendRegistry([CountingBackend()]).as_dict()
    return {
        case.id.replace("counting-", ""): case
        for case in make_cases(Settings(cache=tmp_path), SPECS, backends)
    }


def test_static_batches_have_one_size_and_are_filled(
    bench: Workbench, cases: dict[str, Case]
) -> None:
    batches = list(bench.batches(cases["one_net-static-b2"]))

    assert [batch.images.shape for batch in batches] == [(2, 3, 64, 32)] * 2
    assert [batch.valid for batch in batches] == [2, 1]
    assert len(bench.batches(cases["one_net-static-b2"])) == 2


def test_dynamic_batches_have_their_own_sizes(bench: Workbench, cases: dict[str, Case]) -> None:
    batches = bench.batches(cases["one_net-dynamic-b2"])

    for _ in range(2):  # they can be gone through again
        assert [batch.images.shape for batch in batches] == [(2, 3, 40, 30), (1, 3, 25, 25)]


def test_static_graphs_bake_what_is_run(bench: Workbench, cases: dict[str, Case]) -> None:
    options = bench.export_options(cases["one_net-static-b2"])

    assert (options.shape, options.batch, options.size) == ("static", 2, (64, 32))


def test_dynamic_graphs_are_traced_at_what_is_not_run(
    bench: Workbench, cases: dict[str, Case]
) -> None:
    options = [bench.export_options(cases[f"one_net-dynamic-b{n}"]) for n in DEFAULT_BATCHES]

    assert options[0] == options[1]
    assert options[0].batch not in DEFAULT_BATCHES
    assert options[0].size == (96, 64)


@pytest.mark.parametrize(
    ("run", "traced"), [(160, 192), (384, 416), (800, 320), (1344, 352), (1023, 415), (385, 289)]
)
def test_full_size_detectors_are_traced_at_part_of_their_size(
    bench: Workbench,
    cases: dict[str, Case],
    monkeypatch: pytest.MonkeyPatch,
    run: int,
    traced: int,
) -> None:
    monkeypatch.setattr(bench, "static_size", lambda spec: (run, run))

    assert bench.export_options(cases["one_net-dynamic-b1"]).size == (traced, traced)
    assert bench.export_options(cases["one_net-static-b1"]).size == (run, run)


def test_a_spec_fixes_the_static_size(bench: Workbench) -> None:
    assert bench.static_size(ModelSpec("a", "a.py", static_shape=(300, 300))) == (300, 300)


def test_graphs_and_sessions_are_made_once(bench: Workbench, cases: dict[str, Case]) -> None:
    one, two = cases["one_net-dynamic-b1"], cases["one_net-dynamic-b2"]

    assert bench.artifact(one) is bench.artifact(two)
    assert bench.session(one) is bench.session(two)
    assert bench.artifact(one) is not bench.artifact(one, postprocess=False)


def test_another_model_closes_what_the_last_one_held(
    bench: Workbench, cases: dict[str, Case]
) -> None:
    session = bench.session(cases["one_net-dynamic-b1"])
    again = bench.session(cases["two_net-dynamic-b1"])

    assert not session._open
    assert again._open
    bench.close()
    bench.close()
    assert not again._open


def test_every_image_is_found_once(bench: Workbench, cases: dict[str, Case]) -> None:
    candidate = bench.candidates(cases["one_net-static-b2"])

    assert len(candidate) == len(Images())
    assert bench.candidates(cases["one_net-static-b2"]) is candidate


def test_singles_run_each_image_at_its_batchs_size(
    bench: Workbench, cases: dict[str, Case]
) -> None:
    case = cases["one_net-dynamic-b2"]
    session = bench.session(case)
    assert isinstance(session, CountingSession)

    assert bench.singles(cases["one_net-dynamic-b1"]) is None
    assert len(bench.singles(case) or []) == len(Images())
    assert session.batches == [(1, 3, 40, 30), (1, 3, 40, 30), (1, 3, 25, 25)]


def test_singles_that_batches_of_one_fed_alike_are_not_run_again(
    bench: Workbench, cases: dict[str, Case]
) -> None:
    case = cases["one_net-dynamic-b2"]
    session = bench.session(case)
    assert isinstance(session, CountingSession)
    alone = bench.candidates(cases["one_net-dynamic-b1"])
    before = len(session.batches)

    singles = bench.singles(case)

    # The first two share a batch of 40 x 30 px, which neither has by itself.
    assert session.batches[before:] == [(1, 3, 40, 30), (1, 3, 40, 30)]
    assert singles is not None and np.array_equal(singles[2].boxes, alone[2].boxes)


def test_singles_of_a_static_batch_run_the_graph_of_batch_one(
    bench: Workbench, cases: dict[str, Case]
) -> None:
    alone = cases["one_net-static-b1"]
    candidate = bench.candidates(alone)
    session = bench.session(alone)
    assert isinstance(session, CountingSession)
    ran = len(session.batches)

    assert bench.singles(cases["one_net-static-b2"]) is candidate
    assert len(session.batches) == ran  # of one size whatever the batch, and run already


def stored_sets(bench: Workbench) -> set[str]:
    """The sets of detections that are in memory."""
    made = bench._memo._made
    return {"-".join(map(str, key[:3])) for key in made if key[0] in ("candidates", "recording")}


def test_detections_are_let_go_of_when_their_cases_are_done(
    bench: Workbench, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "reference", lambda spec: Settling())
    monkeypatch.setattr(Recordings, "identity", lambda *_: {})
    monkeypatch.setattr(Recordings, "get", lambda *_: SimpleNamespace(detections=(), raw=()))
    seen = []
    for shape in ("static", "dynamic"):
        for batch in (1, 2):
            case = cases[f"one_net-{shape}-b{batch}"]
            bench.results(case)
            bench.raw_reference(case)
            candidate = bench.candidates(case)
            bench.singles(case)
            assert bench.candidates(case) is candidate  # which the case's next check asks for
            seen.append(stored_sets(bench))

    def sides(shape: str, batch: int) -> set[str]:
        return {f"{side}-{shape}-{batch}" for side in ("candidates", "recording")}

    assert seen == [
        sides("static", 1),
        sides("static", 2) | {"candidates-static-1"},  # with which larger batches are compared
        sides("dynamic", 1),
        sides("dynamic", 2) | {"candidates-dynamic-1"},
    ]


def test_a_warm_run_asks_pytorch_for_nothing(
    bench: Workbench, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detections and raw outputs come of one recording, which lies in the cache."""

    class Counted:
        detector, ran = SimpleNamespace(cfg=SimpleNamespace(model={})), []
        family = SimpleNamespace(
            candidate_head=lambda detector: None, proposal_limit=lambda detector: None
        )

        def run(self, batch: Any) -> list[Detections]:
            self.ran.append("run")
            return [Detections(*NOTHING)] * batch.valid

        def raw(self, batch: Any) -> dict[str, Any]:
            self.ran.append("raw")
            return {"dets": np.full((len(batch.images), 1, 5), len(self.ran), np.float32)}

    case = cases["one_net-dynamic-b2"]
    seen = []
    for _ in range(2):
        with Bench(bench.settings, datasets=None) as fresh:  # type: ignore[arg-type]
            monkeypatch.setattr(fresh, "reference", lambda spec: Counted())
            monkeypatch.setattr(fresh, "names", lambda case: ["a.png", "b.png", "c.png"])
            monkeypatch.setattr(Recordings, "identity", lambda *_: {})
            monkeypatch.setattr("pytest_onnxdet.run.recordings.measuring", lambda *_: None)
            assert len(fresh.results(case)) == 3
            seen.append([outputs["dets"].copy() for outputs in fresh.raw_reference(case)])
            assert len(fresh.raw(case)) == len(seen[-1]) == 2
            assert fresh.recording(case) is fresh.recording(case)
            assert fresh.recording(case).sizes == Images.sizes
    assert Counted.ran == ["run", "run", "raw", "run", "raw"]
    assert all(np.array_equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("what", ["detector", "dataset", "session"])
def test_what_cannot_be_made_is_tried_once_for_a_model(
    bench: Workbench, cases: dict[str, Case], what: str
) -> None:
    tried: list[str] = []

    def fail(name: str) -> None:
        tried.append(name)
        raise BuildError(f"no {what} of {name}")

    for name in ("one_net", "one_net", "two_net", "one_net"):
        spec = cases[f"{name}-static-b1"].spec
        with pytest.raises(BuildError, match=f"no {what} of {name}"):
            bench._once(spec, (what,), lambda name=name: fail(name))
    # The last time it is asked for after another model, of which nothing was kept.
    assert tried == ["one_net", "two_net", "one_net"]


def test_a_repeated_error_does_not_grow(bench: Workbench, cases: dict[str, Case]) -> None:
    spec = cases["one_net-static-b1"].spec

    def fail() -> None:
        raise BuildError("gone")

    lengths = []
    for _ in range(3):
        with pytest.raises(BuildError) as caught:
            bench._once(spec, ("detector",), fail)
        lengths.append(len(caught.traceback))
    assert lengths[1] == lengths[2] < lengths[0]


def test_an_interrupted_build_is_tried_again(bench: Workbench, cases: dict[str, Case]) -> None:
    spec, tried = cases["one_net-static-b1"].spec, []

    def stop() -> None:
        tried.append(1)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            bench._once(spec, ("detector",), stop)
    assert len(tried) == 2


@pytest.mark.parametrize("limit", [None, 3])
def test_the_limit_is_the_data_sets(tmp_path: Path, limit: int | None) -> None:
    spec = builtin_registry().get("retinanet")
    with Workbench(Settings(tmp_path, limit=limit), builtin_datasets()) as bench:
        assert len(bench.dataset(spec)) == (73 if limit is None else limit)
        assert len(bench.names(Case(spec, CountingBackend(), "dynamic", 2))) == (limit or 73)


class Settling:
    """A reference whose raw outputs are the session's ``dets``, off by ``drift``.

    Attributes:
        suppresses: whether its post-processing chooses by suppression, as DETR's does not.
    """

    detector = None

    def __init__(self, two_stage: bool = False, suppresses: bool = True):
        self.two_stage, self.suppresses = two_stage, suppresses
        ties = Ties(order=not two_stage, proposals=two_stage, points=two_stage)
        self.family = SimpleNamespace(
            ties=ties,
            proposal_limit=lambda detector: 7,
            head=lambda detector: None,
            final_cut=lambda detector: None,
            first_choice=lambda detector: None,
        )

    def raw(self, batch: Any) -> dict[str, Any]:
        return {"dets": np.full((len(batch.images), 1, 5), 1, np.float32)}

    def post_process(
        self, raw: Any, batch: Any, lowest_first: bool = False, mask_ranges: bool = False
    ) -> list[str]:
        from mmdet.models.dense_heads import base_dense_head

        boxes, idxs = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([0])
        text = ""
        own = base_dense_head.batched_nms.__module__.startswith("mmcv")
        if not own and self.suppresses:
            for _ in range(1 + self.two_stage):
                dets, _ = base_dense_head.batched_nms(
                    boxes, torch.tensor([0.5]), idxs, {"iou_threshold": 0.5}
                )
            text = f", chosen: {len(dets)}"
        assert (raw["dets"] == 1).all()  # PyTorch's own, whatever the backend's heads give
        return [
            Noted(f"{place} of {len(batch.images)}, {lowest_first}{text}{mask_ranges * ', ranges'}")
            for place in range(batch.valid)
        ]


class Noted(str):
    """Stands in for detections."""

    masks = mask_probs = mask_range = None
    boxes = np.zeros((0, 4), np.float32)


@pytest.mark.parametrize(
    ("reference", "index", "singly", "made"),
    [
        (Settling(), 1, False, ["1 of 2, True", "0 of 1, False, chosen: 1"]),
        (Settling(), 1, True, ["0 of 1, True", "0 of 1, False, chosen: 1"]),
        (Settling(), 2, False, ["0 of 1, True", "0 of 1, False, chosen: 1"]),
        (Settling(suppresses=False), 1, False, ["1 of 2, True"]),
        (Settling(two_stage=True), 1, False, ["0 of 1, False, chosen: 1, ranges"]),
    ],
)
def test_what_mmdet_may_make_of_its_own_raw_outputs(
    bench: Workbench,
    cases: dict[str, Case],
    monkeypatch: pytest.MonkeyPatch,
    reference: Settling,
    index: int,
    singly: bool,
    made: list[str],
) -> None:
    class Heads(CountingSession):
        def _run(self, feeds: Arrays) -> Arrays:
            dets = super()._run(feeds)["dets"]
            proposals = np.float32([[[0, 0, 9, 9, 0.5, 0], [0] * 5 + [-1]]] * len(dets))
            return {"dets": dets} | ({"proposals": proposals} if reference.two_stage else {})

    # Which boxes are candidates is asked of mmdet's own modules, which the stand-in has none of.
    monkeypatch.setattr(proof, "open_candidates", lambda *_: nullcontext())
    monkeypatch.setattr(bench, "reference", lambda spec: reference)
    monkeypatch.setattr(bench, "max_per_img", lambda spec: 5)
    monkeypatch.setattr(bench, "session", lambda case, postprocess: Heads(bench.artifact(case)))
    candidate = Detections(np.float32([[0, 0, 9, 9]]), np.float32([0.5]), np.int64([0]))

    case = cases["one_net-dynamic-b2"]
    assert list(alternatives(bench, case, Tolerance(), index, candidate, singly)) == made
    two = Detections(np.float32([[0, 0, 9, 9]] * 2), np.float32([0.5] * 2), np.int64([0] * 2))
    later = list(alternatives(bench, case, Tolerance(), index, two, singly))
    known, refused = later[: len(made)], later[len(made) :]
    assert known == made  # proven for the other candidate, and PyTorch's own whoever asks
    assert refused == [one for one in made if "chosen" not in one]


@pytest.mark.parametrize(("workers", "share"), [("1", 8), ("3", 2), ("20", 1)])
def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, workers: str, share: int) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", workers)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)

    assert fair_share() == share


def test_alone_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT", raising=False)

    assert fair_share() is None


def test_a_dynamic_graph_tells_how_large_the_runs_images_are(
    bench: Workbench, cases: dict[str, Case]
) -> None:
    """A runtime that builds for a range of shapes builds for these."""
    assert bench.artifact(cases["one_net-dynamic-b1"]).info["largest_shape"] == [3, 3, 64, 32]
    assert "largest_shape" not in bench.artifact(cases["one_net-static-b1"]).info
