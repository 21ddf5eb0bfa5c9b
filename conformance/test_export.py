"""Every detector exports to a graph that is valid, keeps the contract and comes out the same.

No runtime is asked: where this fails, no backend is to blame. The second export is made in another
process, which hashes otherwise, and is never taken from a cache: a graph that depends on the order
of a set or on the time cannot be cached, and cannot be compared between releases.
"""

import pytest

from pytest_onnxdet.verify.checks import check_export


@pytest.mark.export
def test_export(onnxdet_case, onnxdet_artifact, onnxdet_workbench, onnxdet_record):
    again = onnxdet_workbench.second_export(onnxdet_case)
    onnxdet_record(second_export=again.where)
    onnxdet_record(check_export(onnxdet_artifact, again.path, case_id=onnxdet_case.id))
