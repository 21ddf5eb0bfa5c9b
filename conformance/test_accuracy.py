"""COCO AP of the backend is PyTorch's, on the same batches in the same run.

In either direction: an AP that rises means that the graph computes something else, too. Parity
looks at every detection within an allowance; AP sees what many small differences add up to. Of the
documented detectors PyTorch's own AP is the documented one, else the run says nothing about them.
"""

import pytest

from pytest_onnxdet.models.structure import is_structure
from pytest_onnxdet.verify.checks import check_accuracy
from pytest_onnxdet.verify.documented import check_documented


@pytest.mark.accuracy
def test_accuracy(
    onnxdet_case,
    onnxdet_workbench,
    onnxdet_dataset,
    onnxdet_reference,
    onnxdet_found,
    onnxdet_session,
    onnxdet_record,
):
    if is_structure(onnxdet_case.spec):
        pytest.skip("random weights: AP means nothing")
    metrics = check_accuracy(
        onnxdet_dataset.coco,
        onnxdet_reference,
        onnxdet_found,
        tolerance=onnxdet_case.spec.tolerance(onnxdet_case.backend.name),
        case_id=onnxdet_case.id,
    )
    onnxdet_record(metrics)
    if onnxdet_case.spec.profile == "full" and onnxdet_workbench.settings.limit is None:
        check_documented(onnxdet_case.spec, metrics, case_id=onnxdet_case.id)
