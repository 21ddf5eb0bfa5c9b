"""Allowances from measured noise: what they let through, and what they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_onnxdet import Detections, Tolerance
from pytest_onnxdet.models.spec import GPU as GPU_LIMITS
from pytest_onnxdet.reference.noise import GPU, MEAN, WORST, MapNoise, Noise, map_noise
from pytest_onnxdet.verify.compare import compare_detections
from pytest_onnxdet.verify.noise import MIN_ALLOWED, compare_to_exact, detection_noise, narrowed

RANDOM = np.random.default_rng(0)
EXACT = {"cls_score_0": RANDOM.normal(size=(2, 8, 16, 16)) * 5}


def rounded(scale: float = 3e-7, seed: int = 1) -> dict[str, np.ndarray]:
    """The exact outputs with a rounding of their own, as a runtime's float32 has it."""
    noise = np.random.default_rng(seed).normal(size=EXACT["cls_score_0"].shape) * scale
    return {"cls_score_0": (EXACT["cls_score_0"] + noise).astype(np.float32)}


PYTORCH = rounded()
NOISE = Noise(exact=[EXACT], maps=map_noise([EXACT], [[PYTORCH]]))


def judged(got: dict[str, np.ndarray]):
    return compare_to_exact(NOISE, [PYTORCH], [got])


def test_another_rounding_of_the_same_size_passes():
    result = judged(rounded(seed=2))
    assert result.ok, result.format()
    assert 0 < result.metrics["raw_share"] < 1


def test_a_backend_that_is_nearer_to_the_exact_answer_is_said_to_be():
    nearer = {name: value.astype(np.float32) for name, value in EXACT.items()}
    assert judged(nearer).metrics["raw_nearer"] is True
    assert judged(rounded(2e-6)).metrics["raw_nearer"] is False


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda x: x * np.float32(1.0004), "root mean square"),
        (lambda x: x.astype(np.float16).astype(np.float32), "root mean square"),
        (lambda x: x + np.float32(4e-6), "root mean square"),
        (lambda x: x + np.float32(2e-5) * (np.arange(x.size) == 7).reshape(x.shape), "worst at"),
        (lambda x: np.where(np.arange(x.size) == 9, np.nan, x.ravel()).reshape(x.shape), "worst"),
        (lambda x: x[:, :-1], "shape"),
    ],
    ids=["scaled by 1.0004", "fp16", "shifted", "one element", "NaN", "shape"],
)
def test_what_no_rounding_does_is_refused(fault, words):
    result = judged({"cls_score_0": fault(PYTORCH["cls_score_0"])})
    assert not result.ok and words in result.format()


def test_outputs_that_are_missing_or_of_another_name_are_refused():
    assert "missing" in judged({}).format()
    assert "not in the reference" in judged({**PYTORCH, "more": np.zeros(1)}).format()
    assert not compare_to_exact(NOISE, [PYTORCH], []).ok


def test_a_map_that_float32_gets_exactly_still_allows_a_step_of_float32():
    allowed = MapNoise(worst=0.0, rms=0.0, step=1e-6)
    assert allowed.allowed_worst == WORST * 1e-6
    assert allowed.allowed_rms == pytest.approx(MEAN * 0.29e-6)


def test_the_noise_is_the_worst_of_several_orders_of_summation():
    single, both = (map_noise([EXACT], [[PYTORCH], *more]) for more in ([], [[rounded(9e-7)]]))
    assert both["cls_score_0"].rms > 2 * single["cls_score_0"].rms
    with pytest.raises(ValueError, match="very batches"):
        map_noise([EXACT], [])


def detections(shift: float = 0.0, score: float = 0.0, side: float = 60.0) -> Detections:
    boxes = np.array([[10, 10, 10 + side, 50], [80, 20, 120, 70]], np.float64) + shift
    scores = np.array([0.9, 0.4]) - score
    return Detections(boxes.astype(np.float32), scores.astype(np.float32), np.array([0, 1]))


def test_detection_noise_is_that_of_the_shared_detections():
    other = detections(1e-4, 1e-6)
    other.boxes[1] += 40  # a tie decided otherwise: no rounding
    noise = detection_noise([detections()], [other], Tolerance())
    assert noise["detections"] == 1 and noise["mask_prob"] is None
    assert noise["box_px"] == pytest.approx(1e-4, rel=0.2)
    assert noise["box_rel"] == pytest.approx(1e-4 / 60, rel=0.2)
    assert noise["score"] == pytest.approx(1e-6, rel=0.2)


def test_allowances_are_narrowed_and_never_widened():
    quiet = Noise(box_px=1e-5, box_rel=1e-7, score=1e-7, detections=50)
    assert narrowed(Tolerance(), quiet) == replace(
        Tolerance(), box_px=MIN_ALLOWED.box_px, box_rel=MIN_ALLOWED.box_rel, score=MIN_ALLOWED.score
    )
    loud = Noise(box_px=1.0, box_rel=1.0, score=1.0, mask_prob=1.0, detections=50)
    assert narrowed(Tolerance(), loud) == Tolerance()
    assert narrowed(Tolerance(), Noise()) == Tolerance(), "nothing was measured"


@pytest.mark.parametrize(
    ("shift", "side", "ok"),
    [(0.009, 40, True), (0.05, 300, True), (0.05, 200, False), (0.011, 40, False)],
)
def test_a_large_box_may_be_off_by_a_share_of_its_longer_side(shift, side, ok):
    ours, theirs = (
        Detections(np.float32([[x, 0, x + side, 30]]), np.float32([0.9]), np.array([0]))
        for x in (0.0, shift)
    )
    result = compare_detections([ours], [theirs], Tolerance())
    assert result.ok is ok, result.format()


LAYER_OFF = 1.0004


def test_a_gpus_allowances_are_wider_by_what_its_convolutions_lose():
    gpu = NOISE.on("cuda")
    assert (NOISE.on("cpu").spread, gpu.spread) == (1.0, GPU)
    share = judged(rounded(1e-6)).raw_share
    on_gpu = compare_to_exact(gpu, [PYTORCH], [rounded(1e-6)])
    assert on_gpu.raw_share == pytest.approx(share / GPU)
    quiet = Noise(box_px=1e-5, box_rel=1e-7, score=1e-7, detections=50)
    assert narrowed(GPU_LIMITS, quiet.on("tensorrt")).score == GPU * MIN_ALLOWED.score
    loud = Noise(box_px=1.0, box_rel=1.0, score=1.0, mask_prob=1.0, detections=50).on("cuda")
    assert narrowed(GPU_LIMITS, loud) == GPU_LIMITS


def test_no_fault_of_the_self_test_fits_into_a_gpus_limits():
    """Not even where nothing was measured: scores and masks off by the least that mutants have."""
    score, mask = 1e-3, 1e-2  # score_shift and mask_shift
    assert score > 1.5 * GPU_LIMITS.score and mask > 1.5 * GPU_LIMITS.mask_prob
    off = {name: (array * LAYER_OFF).astype(np.float32) for name, array in PYTORCH.items()}
    assert not compare_to_exact(NOISE.on("cuda"), [PYTORCH], [off]).ok
