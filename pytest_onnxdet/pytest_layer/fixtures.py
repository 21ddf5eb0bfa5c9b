"""The public fixtures. A test that takes any of the first eight runs once for every case.

They share one parameter, ``onnxdet_case``: with model, shape and backend as separate session
fixtures pytest tears down and rebuilds what they cost, many times over. What is expensive is
memoised by the workbench, not by pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from pytest_onnxdet.backends.base import Session
    from pytest_onnxdet.core.store import Artifact
    from pytest_onnxdet.data.batches import Batches
    from pytest_onnxdet.data.datasets import Dataset
    from pytest_onnxdet.data.detections import Detections
    from pytest_onnxdet.run.bench import Workbench
    from pytest_onnxdet.run.cases import Case


@pytest.fixture(scope="session")
def onnxdet_case(request: pytest.FixtureRequest) -> Case:
    """The combination under test: ``spec``, ``backend``, ``shape``, ``batch``, ``precision``."""
    case: Case | None = getattr(request, "param", None)
    if case is None:
        raise pytest.UsageError(
            "onnxdet_case has no case: run with --onnxdet, and take the fixture as an argument "
            "of the test, not through getfixturevalue"
        )
    return case


@pytest.fixture(scope="session")
def onnxdet_workbench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    """Makes and memoises what cases need; the other fixtures are drawn from it."""
    from pytest_onnxdet.pytest_layer.stash import SUITE
    from pytest_onnxdet.run.bench import Workbench

    suite = request.config.stash[SUITE]
    with Workbench(suite.settings, suite.datasets, families=suite.families) as bench:
        yield bench


@pytest.fixture(scope="session")
def onnxdet_model(onnxdet_case: Case, onnxdet_workbench: Workbench) -> nn.Module:
    """The unmodified detector in PyTorch: eval mode, CPU, float32, weights loaded.

    It is shared by every test of the model: do not change it.
    """
    return onnxdet_workbench.detector(onnxdet_case.spec)


@pytest.fixture(scope="session")
def onnxdet_dataset(onnxdet_case: Case, onnxdet_workbench: Workbench) -> Dataset:
    """The model's data set, through the test pipeline of the model's config."""
    return onnxdet_workbench.dataset(onnxdet_case.spec)


@pytest.fixture(scope="session")
def onnxdet_images(onnxdet_case: Case, onnxdet_workbench: Workbench) -> Batches:
    """The case's batches, to be iterated over as often as needed.

    A batch has ``images`` float32 (N, 3, H, W), ``image_shape`` int64 (N, 2), ``metas`` and
    ``valid``, the number of images that are not there to fill the last batch.
    """
    return onnxdet_workbench.batches(onnxdet_case)


@pytest.fixture(scope="session")
def onnxdet_artifact(onnxdet_case: Case, onnxdet_workbench: Workbench) -> Artifact:
    """The exported graph: ``path`` of the .onnx file, and ``info`` about it."""
    return onnxdet_workbench.artifact(onnxdet_case)


@pytest.fixture(scope="session")
def onnxdet_session(onnxdet_case: Case, onnxdet_workbench: Workbench) -> Session:
    """The graph loaded by the case's backend; ``run(batch)`` gives its outputs by name."""
    return onnxdet_workbench.session(onnxdet_case)


@pytest.fixture(scope="session")
def onnxdet_reference(onnxdet_case: Case, onnxdet_workbench: Workbench) -> list[Detections]:
    """PyTorch's detections, one entry per image, computed on the batches the case runs."""
    return onnxdet_workbench.results(onnxdet_case)


@pytest.fixture(scope="session")
def onnxdet_found(
    onnxdet_case: Case, onnxdet_workbench: Workbench, onnxdet_session: Session
) -> list[Detections]:
    """The backend's detections of the same images, in the same order.

    Depends on the session although the workbench would open it: by this name a test is known to
    run something, and is skipped where the backend can only build.
    """
    return onnxdet_workbench.candidates(onnxdet_case)


@pytest.fixture
def onnxdet_record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``onnxdet_record({"max_box_px": 0.002})`` puts figures into the summary and the report.

    Takes a mapping, keywords, or both, as often as wanted; of two figures of one name the later
    one counts.

    Figures are numbers, texts, lists and dictionaries of those, or numpy's scalars. A test that
    carries a check's marker and passes without having recorded any is an error: it compared
    nothing.
    """
    from pytest_onnxdet.pytest_layer.stash import METRICS
    from pytest_onnxdet.report.records import plain

    metrics = request.node.stash.setdefault(METRICS, {})

    def record(figures: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        metrics.update(plain({**(figures or {}), **more}))

    return record
