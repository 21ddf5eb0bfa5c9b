"""How tests are spread over pytest-xdist's workers: what is expensive stays with one of them.

Left alone, xdist hands out tests one by one, and every worker builds every detector, loads every
graph and runs every backend anew. Here the tests of one model and shape mode go to one worker, and
those of the model's other shape mode to the same one, which knows the model by then: unless there
is nothing else left to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from pytest_onnxdet.run.cases import Case


class CaseScheduling(LoadScopeScheduling):
    """Tests of the same model and shape mode to the same worker, others wherever there is room.

    Args:
        cases: the run's cases.
        config, log: as xdist hands them to ``pytest_xdist_make_scheduler``.
    """

    def __init__(self, cases: Iterable[Case], config: Any, log: Any) -> None:
        super().__init__(config, log)
        self.remember(cases)

    def remember(self, cases: Iterable[Case]) -> None:
        """Names the groups: of each case, and of each model's mutants those of its first case."""
        self._groups: dict[str, str] = {}
        self._models: dict[str, str] = {}
        for case in cases:
            self._groups[case.id] = f"{case.spec.name} {case.shape}"
            self._models.setdefault(case.spec.name, self._groups[case.id])

    def remove_node(self, node: Any) -> Any:
        """Takes back a worker's tests, except the one during which it died.

        xdist itself would run that one again, and kill the next worker with it.
        """
        workload = self.assigned_work.get(node, {})
        running = next((t for ts in workload.values() for t, done in ts.items() if not done), None)
        for tests in workload.values():
            if running in tests:
                tests[running] = True
        for scope in [scope for scope, tests in workload.items() if all(tests.values())]:
            del workload[scope]
        super().remove_node(node)
        return running

    def schedule(self) -> None:
        """Hands out the tests; a worker that comes late, in place of a dead one, gets enough.

        A worker begins a test when it knows the next one, or that there is none.
        """
        late = self.collection is not None
        super().schedule()
        for node in self.nodes if late else ():
            while self.workqueue and not node.shutting_down:
                if self._pending_of(self.assigned_work[node]) > 1:
                    break
                self._assign_work_unit(node)
            if not self.workqueue:
                self._reschedule(node)

    def _assign_work_unit(self, node: Any) -> None:
        """Gives a worker the next group: of its last model, else of one that nobody has begun."""
        own = next(map(self._model, reversed(self.assigned_work.get(node, {}))), None)
        others = {self._model(s) for units in self.assigned_work.values() for s in units}
        preferred = [s for s in self.workqueue if self._model(s) == own] or [
            s for s in self.workqueue if self._model(s) not in others
        ]
        if preferred:
            self.workqueue.move_to_end(preferred[0], last=False)
        super()._assign_work_unit(node)

    @staticmethod
    def _model(scope: str) -> str:
        return scope.partition(" ")[0]

    def _split_scope(self, nodeid: str) -> str:
        parameters = nodeid.rpartition("[")[2].removesuffix("]")
        if parameters in self._groups:
            return self._groups[parameters]
        # The self-test's: a case or a model, and a fault.
        owner = parameters.rpartition("-")[0]
        return self._groups.get(owner) or self._models.get(owner, nodeid)
