"""One known fault at a time in a case's good graph, and the suite's own checks on what it became.

Nothing is judged here: a mutant's detections are read, its raw outputs compared, ties proved and
AP computed by the functions that the conformance tests call, at a bench whose graphs are the
mutant's and whose reference is the good one's.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import onnx

from pytest_onnxdet.backends.base import BackendError
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batches, CachedBatches
from pytest_onnxdet.models.structure import is_structure
from pytest_onnxdet.run.bench import Workbench
from pytest_onnxdet.run.cases import SELFTEST_IMAGES
from pytest_onnxdet.run.memo import Memo
from pytest_onnxdet.run.parity import noise_of, sides, tie_proofs
from pytest_onnxdet.verify.accuracy import AccuracyError, compare_ap
from pytest_onnxdet.verify.checks import CheckFailed, check_accuracy, check_export, kinds_of
from pytest_onnxdet.verify.judge import judge
from pytest_onnxdet.verify.mutants import Operator
from pytest_onnxdet.verify.noise import compare_to_exact, narrowed
from pytest_onnxdet.verify.selftest import (
    NOWHERE,
    MutantResult,
    caught,
    choose_places,
    refused,
    same_outputs,
    unseen,
)
from pytest_onnxdet.verify.verdict import Verdict

if TYPE_CHECKING:
    from pytest_onnxdet.backends.base import Arrays, Session
    from pytest_onnxdet.data.datasets import Dataset
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.models.spec import ModelSpec, Tolerance
    from pytest_onnxdet.reference.detector import Reference
    from pytest_onnxdet.reference.recording import Recording
    from pytest_onnxdet.run.cases import Case


class SelfTest:
    """The mutants of one case. Use as a context manager.

    Args:
        bench: with the good graphs.
        case: whose graphs are mutated.
        early: whether a mutant is done with at the first part of parity that is red: raw outputs,
            detections of the first images, of all, images one by one. The outcome is the same, and
            less is run.
    """

    def __init__(self, bench: Workbench, case: Case, early: bool = False) -> None:
        self.bench, self.case, self._early = bench, case, early
        self._memo = Memo()
        self._folder = tempfile.TemporaryDirectory(prefix="onnxdet-selftest-")

    def require_good(self) -> None:
        """Holds the good graph to the checks: where it fails them, a caught mutant says nothing.

        Raises:
            CheckFailed: the good graph does not pass.
        """
        bench, case = self.bench, self.case
        check_export(bench.artifact(case), case_id=case.id)
        with self._bench(None, "") as good:
            verdict = self._verdict(good)
        verdict.raise_for(f"{case.id}, before any fault")
        if not is_structure(case.spec):
            self._accuracy(bench.candidates(case))

    def run(self, operator: Operator, number: int = 0, count: int = 1) -> MutantResult:
        """Puts a fault into the graph, and asks every check.

        Args:
            operator: the fault.
            number: which of the places it is put into.
            count: of how many.
        """
        case = self.case
        good = self.model(self.bench.artifact(case))
        if operator.min_batch > case.batch:
            why = f"it shows in batches of {operator.min_batch} and more"
            return MutantResult(operator, "", NOWHERE, reason=why)
        places = choose_places(operator, good, case.spec.name, count)
        if number >= len(places):
            what = "no place for it" if not places else f"{len(places)} place(s) for it"
            return MutantResult(operator, "", NOWHERE, reason=f"the graph has {what}")
        return self.at(operator, places[number])

    def at(self, operator: Operator, place: str) -> MutantResult:
        """Puts a fault into a place that takes it, and asks every check."""
        with self._bench(operator, place) as mutant:
            return self._judge(mutant, operator, place)

    def _judge(self, mutant: MutantBench, operator: Operator, place: str) -> MutantResult:
        case = self.case
        try:
            if operator.caught_by == "export":
                check_export(mutant.artifact(case), case_id=case.id)
            red = self._red_early(mutant) if self._early else None
            if red is not None:
                return caught(operator, place, red)
            # What is the same to the bit passes what the good graph has passed.
            same = self._early and self._same(mutant)
            verdict = Verdict({}) if same else self._verdict(mutant)
            if not verdict.ok:
                return caught(operator, place, verdict)
            if not same and not is_structure(case.spec):
                self._accuracy(mutant.candidates(case))
            check_export(mutant.artifact(case), case_id=case.id)
        except (CheckFailed, BackendError) as error:
            return refused(operator, place, error)
        same = same or (not self._early and self._same(mutant))
        noise = noise_of(self.bench, case)
        tolerance = self._tolerance()
        return unseen(
            operator,
            place,
            same,
            self.bench.candidates(case),
            [] if same else mutant.candidates(case),
            tolerance if noise is None else narrowed(tolerance, noise),
            None if same else self._moved(mutant.candidates(case)),
        )

    def _same(self, mutant: MutantBench) -> bool:
        """Whether every output on every image is the good graph's to the bit."""
        case = self.case
        good = self.outputs(self.bench.session(case))
        session = mutant.session(case)
        return all(
            same_outputs(ours, session.run(batch))
            for ours, batch in zip(good, self.batches(case), strict=True)
        ) and all(map(same_outputs, self.raw(), mutant.raw(case)))

    def _red_early(self, mutant: MutantBench) -> Verdict | None:
        """The verdict where raw outputs or the first images make it red."""
        return self._red_raw(mutant) or self._red_first(mutant)

    def _verdict(self, mutant: MutantBench) -> Verdict:
        """As conformance/test_parity.py comes to it."""
        case, tolerance = self.case, self._tolerance()
        proofs = replace(tie_proofs(mutant, case, tolerance), thorough=False)
        candidates = mutant.candidates(case)
        if self._early:
            both = sides(mutant, case, mutant.results(case), candidates, singly=False)
            verdict = judge(both, tolerance, proofs)
            if not verdict.ok:
                return verdict
        return judge(sides(mutant, case, mutant.results(case), candidates), tolerance, proofs)

    def _red_raw(self, mutant: MutantBench) -> Verdict | None:
        """The verdict where raw outputs alone make it red, before anything else is run."""
        case, noise = self.case, noise_of(self.bench, self.case)
        good = self.bench.artifact(case, postprocess=False)
        if noise is None or mutant.artifact(case, postprocess=False) is good:
            return None
        raw = compare_to_exact(noise, mutant.raw_reference(case), mutant.raw(case))
        if raw.ok:
            return None
        return Verdict(raw.metrics, (f"raw outputs of the heads: {raw.format()}",), raw=raw)

    def _red_first(self, mutant: MutantBench) -> Verdict | None:
        """The verdict on the first images, where it is red: no further image makes it green.

        How many images may rest on a proof is asked of all together, and so not here.
        """
        case, tolerance = self.case, self._tolerance()
        if self.batches(case).images <= SELFTEST_IMAGES:
            return None
        first = mutant.first(case, SELFTEST_IMAGES)
        both = sides(mutant, case, mutant.results(case)[: len(first)], first, singly=False)
        proofs = replace(tie_proofs(mutant, case, tolerance), thorough=False, max_share=1.0)
        verdict = judge(both, tolerance, proofs)
        return None if verdict.ok else verdict

    def _tolerance(self) -> Tolerance:
        case = self.case
        device = self.bench.session(case).device
        return case.spec.tolerance(case.backend.name, case.precision, device)

    def _accuracy(self, candidates: list[Any]) -> None:
        """As conformance/test_accuracy.py, where PyTorch's AP on these images is not 0."""
        bench, case = self.bench, self.case
        dataset, reference = bench.dataset(case.spec), bench.results(case)
        kinds = kinds_of(reference, dataset.metrics)
        if not kinds:
            return
        check_accuracy(
            dataset.coco,
            reference,
            candidates,
            tolerance=self._tolerance(),
            case_id=case.id,
            metrics=kinds,
        )

    def _moved(self, candidates: list[Any]) -> float | None:
        """How far AP, of boxes where there are any, is from the good graph's; None without AP."""
        if is_structure(self.case.spec):
            return None
        coco, good = self.bench.dataset(self.case.spec).coco, self.bench.candidates(self.case)
        kind = kinds_of(good)[0]
        try:
            return float(compare_ap(coco, good, candidates, (kind,))[f"{kind}_mAP_delta"])
        except AccuracyError:
            return None

    # -- what every mutant of the case shares ---------------------------------------------------

    def model(self, artifact: Artifact) -> onnx.ModelProto:
        """A good graph, read once."""
        return self._memo.get(self, ("model", artifact.key), lambda: onnx.load(artifact.path))

    def batches(self, case: Case) -> Batches:
        """The images of a case, read once where they are few."""
        key = ("batches", case.shape, case.batch)
        return self._memo.get(self, key, lambda: CachedBatches(self.bench.batches(case)))

    def raw(self) -> list[dict[str, Any]]:
        """The good graph's raw outputs."""
        return self._memo.get(self, ("raw",), lambda: self.bench.raw(self.case))

    def outputs(self, session: Session) -> list[Arrays]:
        """All that the good graph gives, batch by batch."""
        return self._memo.get(
            self, ("outputs",), lambda: [session.run(b) for b in self.batches(self.case)]
        )

    def _bench(self, operator: Operator | None, place: str) -> MutantBench:
        return MutantBench(self, operator, place, Path(self._folder.name))

    def close(self) -> None:
        """Lets go of what is kept."""
        self._memo.clear()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MutantBench(Workbench):
    """A bench whose graphs have a fault; everything else is the good bench's.

    Args:
        owner: with the good bench.
        operator: the fault; None: none, the graphs are the good ones.
        place: where it is.
        folder: where mutants are written.
    """

    def __init__(
        self, owner: SelfTest, operator: Operator | None, place: str, folder: Path
    ) -> None:
        good = owner.bench
        super().__init__(good.settings, good.datasets, good.threads, good.families)
        self.good, self._owner = good, owner
        self._operator, self._place, self._writes = operator, place, folder

    def detector(self, spec: ModelSpec) -> Any:
        """The good bench's."""
        return self.good.detector(spec)

    def reference(self, spec: ModelSpec) -> Reference:
        """The good bench's."""
        return self.good.reference(spec)

    def dataset(self, spec: ModelSpec) -> Dataset:
        """The good bench's."""
        return self.good.dataset(spec)

    def recording(self, case: Case) -> Recording:
        """The good bench's."""
        return self.good.recording(case)

    def names(self, case: Case) -> list[str]:
        """The good bench's."""
        return self.good.names(case)

    def batches(self, case: Case) -> Batches:
        """The case's images, shared by all mutants."""
        return self._owner.batches(case)

    def artifact(self, case: Case, postprocess: bool = True) -> Artifact:
        """The case's graph with the fault; of raw outputs, where the fault is in them, too."""
        good = self.good.artifact(case, postprocess)
        operator = self._operator
        if operator is None or not (postprocess or operator.in_raw(self._place)):
            return good
        return self._once(
            case.spec, ("mutant", good.key), lambda: self._mutate(good, operator), self._drop
        )

    def _mutate(self, good: Artifact, operator: Operator) -> Artifact:
        model = operator.apply(self._owner.model(good), self._place)
        if model is None:
            return good
        key = f"{good.key}-{operator.name}"
        path = self._writes / f"{key}.onnx"
        onnx.save(model, path)
        return Artifact(path, key, cached=False, info=good.info)

    def _drop(self, artifact: Artifact) -> None:
        """Takes a mutant's file away: a full-size one has 150 MB."""
        if artifact.path.parent == self._writes:
            artifact.path.unlink(missing_ok=True)

    def session(self, case: Case, postprocess: bool = True) -> Session:
        """The mutant's; of a graph without the fault the good one's."""
        good = self.good.artifact(case, postprocess)
        if self.artifact(case, postprocess) is good:
            return self.good.session(case, postprocess)
        return super().session(case, postprocess)

    def first(self, case: Case, images: int) -> list[Detections]:
        """What the mutant detects in the first batches, which hold so many images or more."""
        return self._run(case, self.session(case), -(-images // case.batch))

    def raw(self, case: Case) -> list[dict[str, Any]]:
        """The mutant's raw outputs; without the fault in them those of the good graph."""
        good = self.good.artifact(case, postprocess=False)
        if self.artifact(case, postprocess=False) is good and case is self._owner.case:
            return self._owner.raw()
        run = super().raw
        return self._once(case.spec, ("mutant raw", case.id), lambda: run(case))
