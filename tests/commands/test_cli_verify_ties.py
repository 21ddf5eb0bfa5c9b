"""``onnxdet export --verify`` and the suite's parity test: one verdict on the same pairs."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_onnxdet.commands import verify as command
from pytest_onnxdet.commands.images import SAMPLE
from pytest_onnxdet.commands.verdicts import in_a_line
from pytest_onnxdet.commands.verify import Trial, compare
from pytest_onnxdet.core.store import Artifact
from pytest_onnxdet.data.batches import Batch
from pytest_onnxdet.data.detections import Detections, paste_masks
from pytest_onnxdet.models.spec import ModelSpec, Tolerance
from pytest_onnxdet.models.torchvision_stub import ensure_torchvision
from pytest_onnxdet.reference.noise import MapNoise, Noise
from pytest_onnxdet.run import ties
from pytest_onnxdet.run.by_image import Known
from pytest_onnxdet.verify.checks import CheckFailed
from pytest_onnxdet.verify.judge import Sides

ensure_torchvision()  # masks are pasted by mmdet

BOX = np.array([[2, 2, 30, 30], [40, 2, 60, 30]], np.float32)
SUITE = Path(command.__file__).parents[2] / "conformance" / "test_parity.py"


def flat(at: float) -> NDArray[np.float32]:
    """Mask probabilities of 0.9, and one of another value."""
    probs = np.full((2, 28, 28), 0.9, np.float32)
    probs[0, 10, 10] = at
    return probs


def image(
    boxes: NDArray[np.float32] = BOX, at: float = 0.9, count: int = 2, **more: Any
) -> Detections:
    """Up to two detections of 28 x 28 pixels, a cell of the mask's map each."""
    some = slice(0, count)
    probs = flat(at)[some]
    masks = paste_masks(probs, boxes[some], (32, 64))
    scores, labels = np.array([0.9, 0.8], np.float32)[some], np.array([0, 0])[some]
    return Detections(boxes[some], scores, labels, masks, probs, **more)


MOVED = image(BOX + np.float32([[0, 0, 0, 0], [3, 0, 3, 0]]))
EXTRA = Detections(
    np.concatenate([BOX, [[1, 1, 9, 9]]]).astype(np.float32),
    np.array([0.9, 0.8, 0.7], np.float32),
    np.array([0, 0, 0]),
    np.concatenate([image().masks, np.zeros((1, 32, 64), bool)]),
)
RANGED = image(mask_range=np.stack([flat(0.2), flat(0.9)], axis=1))

#: What PyTorch finds, what the graph finds, what PyTorch might have found, too, and the verdict.
PAIRS: dict[str, tuple[Detections, Detections, Sequence[Detections], bool]] = {
    "equal": (image(), image(), [], True),
    "tied": (image(), MOVED, [image(), MOVED], True),
    "no tie": (image(), MOVED, [image()], False),
    "a mask tie": (image(at=0.50001), image(at=0.49999), [], True),
    "no mask tie": (image(at=0.5004), image(at=0.4996), [], False),
    "a mask beyond its allowance": (image(at=0.6), image(at=0.49), [], False),
    "a mask in PointRend's range": (image(), image(at=0.3), [RANGED], True),
    "a mask beyond PointRend's range": (image(), image(at=0.1), [RANGED], False),
    "wrong box": (image(), image(BOX + np.float32(0.5)), [], False),
    "missing": (image(), image(count=1), [], False),
    "extra": (image(), EXTRA, [], False),
    "nothing found": (image(count=0), image(count=0), [], False),
    "nothing found by the graph": (image(), image(count=0), [], False),
}


def by_the_command(
    monkeypatch: pytest.MonkeyPatch,
    ours: Detections,
    theirs: Detections,
    alike: Any,
    noise: Noise | None = None,
) -> tuple[Any, str]:
    monkeypatch.setattr(ties, "of_image", lambda *_: alike)
    detector = SimpleNamespace(CLASSES=("disc",), cfg=SimpleNamespace(model={}))
    reference: Any = SimpleNamespace(detector=detector)
    none: Any = None
    trial = Trial("t", none, (SAMPLE,))
    sides = Sides([ours], [theirs], noise=noise)
    verdict = compare(reference, trial, sides, Tolerance(), lambda: none)
    return verdict, in_a_line(verdict)


def by_the_suite(
    monkeypatch: pytest.MonkeyPatch,
    ours: Detections,
    theirs: Detections,
    alike: Any,
    noise: Noise | None = None,
) -> tuple[bool, dict[str, Any], str]:
    """What the shipped test itself says of a case in which both sides find just this."""
    loaded = importlib.util.spec_from_file_location("shipped_parity", SUITE)
    assert loaded is not None and loaded.loader is not None
    suite = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(suite)

    raw = [{"cls": np.ones(3, np.float32)}]
    fixed: dict[str, Any] = {
        "names": [SAMPLE.name],
        "max_per_img": None,
        "singles": None,
        "raw_reference": raw,
        "raw": raw,
        "reference": None,
        "batches": [Batch(np.zeros((1, 3, 8, 8), np.float32), np.array([[8, 8]]), [{}])],
        "known": Known(),
        "dataset": SimpleNamespace(said={}),
        "session": SimpleNamespace(device="cpu"),
        "recording": SimpleNamespace(noise=noise, cuts={}),
    }
    bench = SimpleNamespace(
        **{name: lambda *_, value=value: value for name, value in fixed.items()}
    )
    spec = ModelSpec("net", "net.py", classes=("disc",))
    backend: Any = SimpleNamespace(name="onnxruntime")
    case = SimpleNamespace(spec=spec, backend=backend, precision="fp32", batch=1, id="case")
    monkeypatch.setattr(ties, "of_image", lambda *_: alike)
    monkeypatch.setattr(suite, "said_of_views", lambda _: {})  # there is no config
    monkeypatch.setattr(suite, "blame", lambda *_: "stage to blame: runtime")
    figures: dict[str, Any] = {}
    try:
        suite.test_parity(
            case, [ours], [theirs], bench, SimpleNamespace(device="cpu"), figures.update
        )
    except CheckFailed as error:
        return False, figures, str(error)
    return True, figures, ""


@pytest.mark.parametrize(("score", "ok"), [(1e-5, True), (5e-5, False)])
def test_both_entry_points_narrow_the_allowances_by_the_noise(
    monkeypatch: pytest.MonkeyPatch, score: float, ok: bool
) -> None:
    """Within the outer limit of 1e-4, of which the noise leaves 2e-5."""
    ours = PAIRS["equal"][0]
    theirs = replace(ours, scores=ours.scores - np.float32(score))
    maps = {"cls": MapNoise(1e-7, 5e-8, 1e-7)}
    noise = Noise([{"cls": np.ones(3)}], maps, score=1e-7, detections=9)
    verdict, _ = by_the_command(monkeypatch, ours, theirs, [], noise)
    assert verdict.ok == by_the_suite(monkeypatch, ours, theirs, [], noise)[0] == ok


@pytest.mark.parametrize("pair", PAIRS)
def test_both_entry_points_give_the_same_verdict(
    monkeypatch: pytest.MonkeyPatch, pair: str
) -> None:
    *sides, wanted = PAIRS[pair]
    verdict, _ = by_the_command(monkeypatch, *sides)
    ok, figures, text = by_the_suite(monkeypatch, *sides)
    assert verdict.ok == ok == wanted
    # The command's graph has no raw outputs, and limits are counted on data sets.
    own = {"raw_max_abs", "raw_max_rel", "cuts_reached"}
    assert {k: v for k, v in figures.items() if k not in own} == {
        k: v for k, v in verdict.metrics.items() if k not in own
    }
    shared = [fault for fault in verdict.faults if not fault.startswith("the reference finds no")]
    assert all(fault in text for fault in shared)
    assert bool(shared) != ok


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("equal", "the same, 2 detections (boxes within, px: 0, scores: 0, mask probabilities: 0, "
        "least mask IoU: 1)"),
        ("a mask tie", "1 of the masks differ only in pixels that tie with the threshold)"),
        ("tied", "1 of 1 images differ, and PyTorch, deciding float ties alike, finds the same)"),
        ("missing", "DIFFERENT: 1 of 2 reference detections differ (50.0%), 0 extra, in 1 of 1 "),
        ("nothing found", f"FAILED: PyTorch finds nothing in {SAMPLE.name}, so nothing was "),
        ("nothing found by the graph", "DIFFERENT: 2 of 2 reference detections differ"),
    ],
)  # fmt: skip
def test_what_the_command_prints(monkeypatch: pytest.MonkeyPatch, pair: str, told: str) -> None:
    *sides, _ = PAIRS[pair]
    assert told in by_the_command(monkeypatch, *sides)[1]


def test_a_graph_whose_choice_is_proven_needs_the_raw_outputs_of_two_stage_models_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And they are exported once, however many images differ."""
    made: list[Any] = []

    def export(detector: Any, options: Any, path: Path) -> dict[str, Any]:
        made.append(options)
        return {"inputs": ["input"]}

    class Opened:
        def __enter__(self) -> "Opened":
            return self

        def __exit__(self, *_: object) -> None:
            made.append("closed")

    from pytest_onnxdet.export import exporter
    from pytest_onnxdet.export.options import ExportOptions

    def prepare(self: Any, artifact: Artifact) -> Opened:
        return Opened()

    monkeypatch.setattr(exporter, "export_detector", export)
    monkeypatch.setattr("pytest_onnxdet.backends.onnxruntime.OnnxRuntimeBackend.prepare", prepare)
    asked = ExportOptions(single_input=True, simplify=True, mask_output="image", opset=16)
    none: Any = None
    with command._raw_session(none, asked) as raw_session:
        assert not made
        assert raw_session() is raw_session()
    options, closed = made
    assert closed == "closed"
    assert (options.postprocess, options.single_input, options.opset) == (False, False, 16)
