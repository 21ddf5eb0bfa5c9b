import pytest

from pytest_onnxdet.models.mini import WEIGHTS, mini_specs
from pytest_onnxdet.models.registry import (
    DuplicateModel,
    ModelRegistry,
    UnknownModel,
    builtin_registry,
)
from pytest_onnxdet.models.spec import ModelSpec, Tolerance

TWELVE = {
    "fcos",
    "fsaf",
    "retinanet",
    "ssd",
    "yolov3",
    "faster_rcnn",
    "cascade_rcnn",
    "mask_rcnn",
    "cascade_mask_rcnn",
    "cornernet",
    "detr",
    "point_rend",
}


WIDER = {"yolox", "atss", "deformable_detr", "solov2"}


def test_the_twelve_are_documented_and_a_mini_is_there_when_its_weights_are() -> None:
    registry = builtin_registry()
    minis = [spec.name for spec in mini_specs()]
    assert set(registry.names("full")) == TWELVE == set(minis[:12])
    assert set(minis[12:]) == WIDER
    trained = {path.stem for path in WEIGHTS.glob("*.safetensors")}
    assert set(registry.names("mini")) == trained
    masked = {s.name for s in (*registry, *mini_specs()) if s.masks}
    assert masked == {"mask_rcnn", "cascade_mask_rcnn", "point_rend", "solov2"}


def test_documented_models_name_checkpoint_classes_and_ap() -> None:
    for spec in builtin_registry().select((), "full"):
        assert spec.weights and spec.weights.startswith("https://") and spec.weights.endswith("pth")
        assert len(spec.classes) == 80 and len(set(spec.classes)) == 80
        assert set(spec.expected_ap) == ({"bbox", "segm"} if spec.masks else {"bbox"})
        assert all(0.2 < ap < 0.5 for ap in spec.expected_ap.values())


def test_select_follows_globs_in_order_of_registration() -> None:
    registry = ModelRegistry([ModelSpec(n, "c.py") for n in ("b", "ab", "a")])
    assert [s.name for s in registry.select(["a*"], "mini")] == ["ab", "a"]
    assert [s.name for s in registry.select([], "mini")] == ["b", "ab", "a"]


@pytest.mark.parametrize("globs", [["retinanet", "retinanut"], ["zz*"]])
def test_a_glob_that_matches_nothing_is_an_error_that_lists_names(globs: list[str]) -> None:
    with pytest.raises(UnknownModel, match=f"{globs[-1][:2]}.*there are: .*retinanet.*mask_rcnn"):
        builtin_registry().select(globs, "mini")


def test_an_unknown_profile_is_an_error_that_lists_profiles() -> None:
    with pytest.raises(UnknownModel, match="profiles: mini, full"):
        builtin_registry().select((), "huge")
    with pytest.raises(UnknownModel, match="there are"):
        builtin_registry().get("nothing")


def test_a_duplicate_raises_and_another_profile_does_not() -> None:
    registry = ModelRegistry([ModelSpec("a", "first.py")])
    registry.register(ModelSpec("a", "first.py", profile="mine"))
    with pytest.raises(DuplicateModel, match=r"'a'.*'mini'.*first\.py"):
        registry.register(ModelSpec("a", "second.py"))
    assert registry.get("a", "mine").profile == "mine"


def test_a_name_that_cannot_be_a_marker_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask-rcnn.*marker"):
        ModelSpec("mask-rcnn", "c.py")


def test_tolerance_is_the_default_unless_named() -> None:
    wide = Tolerance(score=1e-3, reason="half precision")
    spec = ModelSpec("a", "c.py", tolerances={"tensorrt": wide})
    assert spec.tolerance("tensorrt") is wide
    assert spec.tolerance("onnxruntime") == Tolerance()


def test_a_gpu_and_half_precision_have_allowances_of_their_own() -> None:
    spec = ModelSpec("one", "one.py", tolerances={"mine": Tolerance(box_px=3, reason="mine")})
    gpu = spec.tolerance("tensorrt", device="cuda")
    half = spec.tolerance("tensorrt", "fp16", "cuda")
    assert (gpu.box_px, gpu.score, gpu.min_score, gpu.ap) == (0.05, 5e-4, 0.05, 0.002)
    assert half.ap == 0.01 and half.reason and gpu.reason
    assert spec.tolerance("mine", "fp16", "cuda").box_px == 3
