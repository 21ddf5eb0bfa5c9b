"""Every graph of a backend that compiles is parsed and built into an engine, GPU or not.

A builder refuses operators and shapes that every other runtime takes. Shape is an axis, as a
dynamic graph is built for a range; so is batch, as a static graph bakes it. A dynamic graph is the
same for every batch size, and is built once.
"""

import pytest

from pytest_onnxdet.verify.build import check_build


@pytest.mark.build
def test_build(onnxdet_case, onnxdet_artifact, onnxdet_record):
    built = onnxdet_case.backend.build(onnxdet_artifact)
    onnxdet_record(check_build(built, case_id=onnxdet_case.id))
