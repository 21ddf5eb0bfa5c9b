"""Every detection that PyTorch makes, the backend makes, and no other.

The heads' raw outputs are compared first, so that a difference can be told to come from the
network or from the post-processing. A batch is compared with its images run one by one: batching
must not change a detection. Empty images are part of the data set.

Where float ties decide which candidate comes first, an image may differ: then mmdet itself,
deciding those ties as the backend did, has to give the backend's detections, or it fails.
"""

import pytest

from pytest_onnxdet.run.augmented import said_of_views
from pytest_onnxdet.run.parity import blame, sides, tie_proofs
from pytest_onnxdet.verify.judge import judge


@pytest.mark.parity
def test_parity(
    onnxdet_case,
    onnxdet_reference,
    onnxdet_found,
    onnxdet_workbench,
    onnxdet_session,
    onnxdet_record,
):
    case, bench = onnxdet_case, onnxdet_workbench
    tolerance = case.spec.tolerance(case.backend.name, case.precision, onnxdet_session.device)
    verdict = judge(
        sides(bench, case, onnxdet_reference, onnxdet_found),
        tolerance,
        tie_proofs(bench, case, tolerance),
    )
    cuts = bench.recording(case).cuts
    said = {**said_of_views(case.spec), **bench.dataset(case.spec).said}
    onnxdet_record(verdict.metrics, cuts_reached=cuts, **said)
    verdict.raise_for(case.id, locate=lambda: blame(bench, case))
