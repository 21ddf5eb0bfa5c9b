"""``onnxdet export --verify``: what it compares, and that a fault in any part of it is found."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_models import SIZE, Ran, Tiny

from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeSession
from pytest_onnxdet.commands.common import open_config
from pytest_onnxdet.commands.images import SAMPLE, SECOND, pair
from pytest_onnxdet.commands.verify import other_size, trials
from pytest_onnxdet.export.options import ExportOptions

Run = Callable[..., Ran]
Tamper = Callable[[Any, Any], None]


@pytest.fixture
def tampered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tamper], None]:
    """Has every session's outputs changed before anybody sees them."""
    honest = OnnxRuntimeSession.run

    def install(change: Tamper) -> None:
        def run(self: Any, batch: Any) -> Any:
            found = {name: array.copy() for name, array in honest(self, batch).items()}
            change(batch.images, found)
            return found

        monkeypatch.setattr(OnnxRuntimeSession, "run", run)

    return install


class Config:
    """A detector as far as `trials` looks at it."""

    def __init__(self, config: Path) -> None:
        self.cfg = open_config(str(config), None).cfg


def tried(tiny: Tiny, **options: Any) -> list[Any]:
    wanted = ExportOptions(**{"shape": "dynamic", "size": (96, 128), "opset": 11, **options})
    return list(trials(Config(tiny.config), wanted, (SAMPLE, SECOND)))


def test_a_dynamic_graph_is_tried_at_two_sizes_and_on_two_images(tiny: Tiny) -> None:
    own, other, batch = tried(tiny)
    assert [one.batch.images.shape for one in (own, other, batch)] == [
        (1, 3, 96, 128),
        (1, 3, 128, 192),
        (2, 3, 96, 128),
    ]
    assert own.batch.image_shape.tolist() == [[96, 128]]
    first, second = batch.images
    assert first != second and first.read_bytes() != second.read_bytes()
    assert not np.array_equal(batch.batch.images[0], batch.batch.images[1])
    assert batch.batch.image_shape[0].tolist() == [96, 128]
    height, width = batch.batch.image_shape[1]
    assert height < 96 and width < 128
    padding = batch.batch.images[1, :, :, width:]
    assert padding.size and not padding.any()
    assert batch.batch.images[1, :, :height, :width].any()


def test_a_greater_batch_is_tried_as_such(tiny: Tiny) -> None:
    batch = tried(tiny, batch=3)[-1]
    assert batch.batch.images.shape == (3, 3, 96, 128)
    (static,) = tried(tiny, shape="static", batch=2)
    assert static.images == (SAMPLE, SECOND) and static.batch.images.shape == (2, 3, 96, 128)


def test_without_image_shape_nothing_is_padded(tiny: Tiny) -> None:
    batch = tried(tiny, single_input=True)[-1]
    assert batch.batch.image_shape.tolist() == [[96, 128], [96, 128]]
    assert batch.images == (SAMPLE, SECOND)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((800, 1216), (1184, 1344)),
        ((128, 160), (192, 224)),
        ((1344, 1344), (992, 992)),
        ((21, 21), (32, 32)),
        ((1, 1344), (32, 1344)),
        ((32, 32), (64, 64)),
    ],
)
def test_the_other_size_is_another_one(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert other_size(size) == wanted != size


def test_the_images_are_those_given_and_then_shipped_ones(tmp_path: Path) -> None:
    mine, other = tmp_path / "a.png", tmp_path / "b.png"
    assert pair([]) == (SAMPLE, SECOND)
    assert pair([mine]) == (mine, SAMPLE)
    assert pair([mine, other]) == (mine, other)
    assert pair([mine, mine]) == (mine, SAMPLE)
    assert pair([SAMPLE]) == (SAMPLE, SECOND)


def export(onnxdet: Run, tiny: Tiny, tmp_path: Path, *words: object) -> Ran:
    common = ("export", *tiny, "--output-file", tmp_path / "v.onnx", "--shape", *SIZE)
    return onnxdet(*common, "--dynamic-export", "--verify", *words)


def lines(ran: Ran) -> Iterator[str]:
    return (line for line in ran.out.splitlines() if line.startswith("verify"))


def test_a_fault_in_one_row_of_the_batch_is_found(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, tampered: Callable[[Tamper], None]
) -> None:
    def change(images: Any, found: Any) -> None:
        if len(images) == 2 and "dets" in found:
            found["dets"][1, 0, :4] += 0.5

    tampered(change)
    ran = export(onnxdet, tiny, tmp_path)
    assert ran.code == 1
    own, other, batch = lines(ran)
    assert "the same" in own and "the same" in other
    assert "batch 2" in batch and "DIFFERENT" in batch
    assert "box_shift: 1" in ran.out and SECOND.name in ran.out


def test_a_fault_at_the_other_size_is_found(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, tampered: Callable[[Tamper], None]
) -> None:
    def change(images: Any, found: Any) -> None:
        if images.shape[2:] == (128, 192) and "dets" in found:
            found["dets"][:, 0, 4] -= 0.01

    tampered(change)
    ran = export(onnxdet, tiny, tmp_path)
    assert ran.code == 1
    own, other, batch = lines(ran)
    assert "the same" in own and "the same" in batch
    assert "128 x 192: DIFFERENT" in other and "score_drift: 1" in ran.out


@pytest.mark.parametrize("model", ["tiny", "masked"])
def test_a_missing_detection_is_not_called_a_tie(
    onnxdet: Run,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tampered: Callable[[Tamper], None],
    model: str,
) -> None:
    """mmdet is asked for a proof, of two-stage models with the proposals of a raw graph."""

    def change(_: Any, found: Any) -> None:
        if "dets" in found:
            found["labels"][:, 0], found["dets"][:, 0, 4] = -1, 0

    tampered(change)
    given = request.getfixturevalue(model)
    ran = export(onnxdet, given, tmp_path, "--opset-version", 16)
    assert ran.code == 1 and "missed: 1" in ran.out
    assert "proof" not in ran.out  # which would say that looking for one failed


@pytest.mark.parametrize("trial", [0, 1, 2])
def test_one_comparison_of_nothing_is_no_success(
    onnxdet: Run,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tampered: Callable[[Tamper], None],
    trial: int,
) -> None:
    """Both sides find nothing in the last image of one comparison, and agree everywhere else."""
    from pytest_onnxdet.reference.detector import Reference

    def hit(images: Any) -> bool:
        found = (len(images) == 2, images.shape[2] == 128)
        return found == ((False, False), (False, True), (True, False))[trial]

    def change(images: Any, found: Any) -> None:
        if hit(images) and "dets" in found:
            found["labels"][-1], found["dets"][-1] = -1, 0

    honest = Reference.run

    def run(self: Any, batch: Any, *rest: Any, **more: Any) -> Any:
        from pytest_onnxdet.data.detections import Detections

        found = honest(self, batch, *rest, **more)
        if hit(batch.images):
            none = np.zeros(0, np.float32)
            found[-1] = Detections(none.reshape(0, 4), none, none.astype(np.int64))
        return found

    monkeypatch.setattr(Reference, "run", run)
    tampered(change)
    ran = export(onnxdet, tiny, tmp_path)
    assert ran.code == 1, ran.out
    told = list(lines(ran))
    assert ["FAILED" in line for line in told] == [at == trial for at in range(3)]
    name = (SECOND if trial == 2 else SAMPLE).name
    assert f"PyTorch finds nothing in {name}" in told[trial] and "--test-img" in told[trial]
    assert "Verification failed" in ran.out and "ONNX Runtime" not in ran.out


def test_an_invalid_graph_is_told_in_one_line(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise onnx.checker.ValidationError("Nodes in a graph must be topologically\nsorted")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    ran = export(onnxdet, tiny, tmp_path)
    assert ran.code == 1 and "unforeseen" not in ran.err
    assert "onnx.checker refuses the graph: Nodes in a graph must be topologically" in ran.out


def test_raw_outputs_of_every_row_are_compared(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, tampered: Callable[[Tamper], None]
) -> None:
    def change(images: Any, found: Any) -> None:
        if len(images) == 2:
            found["cls_score_1"][1, 0, 0, 0] += 1

    tampered(change)
    ran = export(onnxdet, tiny, tmp_path, "--skip-postprocess")
    own, other, batch = lines(ran)
    assert ran.code == 1 and "DIFFERENT" in batch and "cls_score_1: 1 of" in ran.out
    assert "the same" in own and "the same" in other


def test_raw_outputs_are_compared_beside_detections(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, tampered: Callable[[Tamper], None]
) -> None:
    """A place without an object may be wrong with all detections right."""

    def change(images: Any, found: Any) -> None:
        if len(images) == 2 and "dets" not in found:
            found["cls_score_1"][1, 0, 0, 0] -= 0.01

    tampered(change)
    ran = export(onnxdet, tiny, tmp_path)
    own, other, batch = lines(ran)
    assert ran.code == 1 and "DIFFERENT: raw outputs of the heads: 1 of 4" in batch
    assert "4 raw outputs agree" in own and "4 raw outputs agree" in other


def test_a_batch_is_compared_with_its_images_one_by_one(
    onnxdet: Run, tiny: Tiny, tmp_path: Path, tampered: Callable[[Tamper], None]
) -> None:
    """An image whose detections hang on what else is in the batch, where it is padded."""
    padded = tried(tiny)[2].batch.images[1]

    def change(images: Any, found: Any) -> None:
        if "dets" in found and len(images) == 1 and np.array_equal(images[0], padded):
            found["dets"][0, 0, :4] += 0.5

    tampered(change)
    ran = export(onnxdet, tiny, tmp_path)
    own, other, batch = lines(ran)
    assert ran.code == 1 and "DIFFERENT: a batch against its images one by one: " in batch
    assert "the same" in own and "the same" in other


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("mini", [False, True], ids=["config", "mini"])
def test_the_allowance_is_that_of_the_device(
    onnxdet: Run,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    mini: bool,
) -> None:
    from pytest_onnxdet.backends.onnxruntime import OnnxRuntimeSession
    from pytest_onnxdet.commands import verify
    from pytest_onnxdet.models.spec import GPU, Tolerance

    given: list[Tolerance] = []
    monkeypatch.setattr(OnnxRuntimeSession, "device", property(lambda _: device))
    monkeypatch.setattr(verify, "verify", lambda *args: not given.append(args[-1]))
    model = ("mini:retinanet",) if mini else tiny
    words = ("--output-file", tmp_path / "v.onnx", "--shape", 96, 128, "--verify")
    assert onnxdet("export", *model, *words).code == 0
    assert given == [Tolerance() if device == "cpu" else GPU]
