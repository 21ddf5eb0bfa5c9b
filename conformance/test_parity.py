"""Every detection that PyTorch makes, the backend makes, and no other.

The heads' raw outputs are compared first, so that a difference can be told to come from the
network or from the post-processing. A batch is compared with its images run one by one: batching
must not change a detection. Empty images are part of the data set.

Where float ties decide which candidate comes first, an image may differ: then mmdet itself,
deciding those ties as the backend did, has to give the backend's detections, or it fails.
"""

from functools import partial

import pytest

from pytest_onnxdet.run.augmented import said_of_views
from pytest_onnxdet.run.ties import alternatives
from pytest_onnxdet.verify.checks import check_parity


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
    metrics = check_parity(
        onnxdet_reference,
        onnxdet_found,
        tolerance=tolerance,
        most_tied=case.spec.tied_images,
        classes=case.spec.classes,
        case_id=case.id,
        max_per_img=bench.max_per_img(case.spec),
        raw_reference=bench.raw_reference(case),
        raw=bench.raw(case),
        singles=bench.singles(case),
        images=bench.names(case),
        settle=partial(alternatives, bench, case, tolerance),
        locate=lambda: bench.blame(case),
    )
    onnxdet_record(metrics, **said_of_views(case.spec))
