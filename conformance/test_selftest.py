"""A suite that misses a fault is not to be trusted: known faults, put into good graphs.

Runs with ``--onnxdet-selftest`` alone. The good graph of the case passes first; then each mutant is
refused by one of the suite's checks, or gives the same bits, or moves no detection by more than the
allowance. Anything else fails. A graph without a place for a fault skips it.
"""

import pytest

from pytest_onnxdet.run.cases import SELFTEST_FULL
from pytest_onnxdet.run.selftest import SelfTest
from pytest_onnxdet.verify.selftest import NOWHERE


@pytest.fixture(scope="session")
def selftest(onnxdet_case, onnxdet_workbench, onnxdet_session):
    """The case's mutants, once its good graph has passed."""
    early = onnxdet_workbench.settings.selftest == SELFTEST_FULL  # thousands of mutants
    with SelfTest(onnxdet_workbench, onnxdet_case, early) as mutants:
        mutants.require_good()
        yield mutants


def test_selftest(selftest, onnxdet_fault, onnxdet_case, onnxdet_session, onnxdet_record):
    result = selftest.run(*onnxdet_fault)
    onnxdet_record(result.figures)
    if result.outcome == NOWHERE:
        pytest.skip(result.reason)
    result.raise_for(onnxdet_case.id)
