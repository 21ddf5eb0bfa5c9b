"""A case before the judge: what is lowered to name the stage to blame."""

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_onnxdet import families
from pytest_onnxdet.models.spec import ModelSpec
from pytest_onnxdet.run.parity import blame
from pytest_onnxdet.verify import localize


@pytest.mark.parametrize("shape", ["static", "dynamic"])
def test_blame_runs_the_lowering_that_the_graph_was_exported_from(
    monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    asked: list[Any] = []

    def lower(detector: Any, lowering: str, fixed_shape: bool = False, families: Any = None) -> Any:
        assert families == "families"
        asked.append((detector, lowering, fixed_shape))
        return "deploy"

    def stages(lowered: Any, *_: Any, **__: Any) -> list[Any]:
        assert lowered.deploy == "deploy" and not lowered.raw
        return [localize.Stage("lowering", lambda: [])]

    monkeypatch.setattr(families, "lower", lower)
    monkeypatch.setattr(localize, "standard_stages", stages)
    fixed = {
        "detector": "net",
        "results": [],
        "artifact": None,
        "session": SimpleNamespace(device="cpu"),
        "batches": [],
        "names": [],
        "max_per_img": None,
        "recording": SimpleNamespace(noise=None),
    }
    bench: Any = SimpleNamespace(
        families="families",
        **{name: lambda *_, value=value: value for name, value in fixed.items()},
    )
    backend = SimpleNamespace(name="onnxruntime", lowering="tensorrt")
    case: Any = SimpleNamespace(
        spec=ModelSpec("net", "net.py"), backend=backend, precision="fp32", shape=shape
    )
    assert "no stage to blame" in blame(bench, case)
    assert asked == [("net", "tensorrt", shape == "static")]
