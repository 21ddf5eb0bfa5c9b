"""COCO AP of the backend is PyTorch's, on the same batches in the same run.

In either direction: an AP that rises means that the graph computes something else, too. Parity
looks at every detection within an allowance; AP sees what many small differences add up to.
"""

import pytest

from pytest_onnxdet.verify.checks import check_accuracy


@pytest.mark.accuracy
def test_accuracy(
    onnxdet_case, onnxdet_dataset, onnxdet_reference, onnxdet_found, onnxdet_session, onnxdet_record
):
    metrics = check_accuracy(
        onnxdet_dataset.coco,
        onnxdet_reference,
        onnxdet_found,
        tolerance=onnxdet_case.spec.tolerance(onnxdet_case.backend.name),
        case_id=onnxdet_case.id,
    )
    onnxdet_record(metrics)
