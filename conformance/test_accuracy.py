"""COCO AP of the backend is PyTorch's, on the same batches in the same run.

In either direction: an AP that rises means that the graph computes something else, too. Parity
looks at every detection within an allowance; AP sees what many small differences add up to. On a
whole data set PyTorch's own AP has to be the documented or measured one, else the run says nothing.
"""

import time

import pytest

from pytest_onnxdet.data.datasets import IMAGES_ALONE
from pytest_onnxdet.models.structure import is_structure
from pytest_onnxdet.run.augmented import said_of_views
from pytest_onnxdet.verify.checks import check_accuracy, kinds_of
from pytest_onnxdet.verify.documented import check_reached


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
    case = onnxdet_case
    if is_structure(case.spec):
        pytest.skip("random weights: AP means nothing")
    if onnxdet_dataset.spec.kind == IMAGES_ALONE:
        pytest.skip("no annotations: there is no AP, give --onnxdet-annotations")
    kinds = kinds_of(onnxdet_reference, onnxdet_dataset.metrics)
    if not kinds:
        pytest.skip("masks alone, of data without segmentations: there is no AP")
    start = time.perf_counter()
    metrics = check_accuracy(
        onnxdet_dataset.coco,
        onnxdet_reference,
        onnxdet_found,
        tolerance=case.spec.tolerance(case.backend.name, case.precision, onnxdet_session.device),
        case_id=case.id,
        metrics=kinds,
    )
    seconds = time.perf_counter() - start
    said = {**said_of_views(case.spec), **onnxdet_dataset.said}
    onnxdet_record(metrics, evaluation_seconds=seconds, **said)
    if onnxdet_workbench.settings.limit is None:
        check_reached(case.spec, metrics, shape=case.shape, batch=case.batch, case_id=case.id)
