"""``--eval-options``, data sets and pipelines that do not fit: refused before an image is run."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from cli_models import Ran, Tiny
from tiny_retinanet import CLASSES

Run = Callable[..., Ran]
ORT = ("--backend", "onnxruntime")


class Runs:
    """Runs code where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


@pytest.fixture
def own(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, images: Path
) -> Callable[..., Ran]:
    """Runs the command on a CustomDataset's pickle: each image with the same objects."""

    def run(ann: Any, *more: str) -> Ran:
        infos = [
            {"filename": path.name, "width": width, "height": height, "ann": ann}
            for path in sorted(images.iterdir())
            for height, width in [cv2.imread(str(path)).shape[:2]]
        ]
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(infos))
        config = tmp_path / "c.py"
        data = {"type": "CustomDataset", "ann_file": str(tmp_path / "a.pkl"), "classes": CLASSES}
        update = f"data['test'].update({data!r}, img_prefix={str(images)!r})"
        config.write_text(f"{tiny.config.read_text()}\n{update}\n")
        ran = onnxdet("test", config, dynamic, *ORT, "--eval", "mAP", *more)
        assert "unforeseen" not in ran.err, ran.err
        return ran

    return run


BOXES = np.array([[0, 0, 20, 20], [30, 30, 90, 90]], np.float32)
GOOD = {"bboxes": BOXES, "labels": np.array([0, 1])}


@pytest.mark.parametrize(
    "value",
    ["iou_thrs=[a]", "iou_thrs=[]", "iou_thrs=[[0.5]]", "iou_thrs=[nan]", "iou_thrs=[0.5,2]",
     "proposal_nums=[10]", "proposal_nums=[-1,-2,-3]", "proposal_nums=[1.5,2,3]",
     "proposal_nums=[0,1,2]", "metric_items=5", "classwise=maybe", "logger=5"],
)  # fmt: skip
def test_values_that_coco_does_not_take(
    onnxdet: Run, tiny: Tiny, dynamic: Path, runs: list[int], value: str
) -> None:
    words = ("--eval", "bbox", "--eval-options", value)
    ran = onnxdet("test", tiny.config, dynamic, *ORT, *words)
    name = value.partition("=")[0]
    assert ran.code == 2 and f"--eval-options {name}: " in ran.err and ": give " in ran.err
    assert len(ran.err.splitlines()) == 1 and not runs


@pytest.mark.parametrize(
    "value",
    ["iou_thr=a", "iou_thr=-1", "iou_thr=[]", "iou_thr=[a]", "iou_thr=nan", "scale_ranges=5",
     "scale_ranges=[1,2]", "scale_ranges=[(32,0)]", "proposal_nums=[0]"],
)  # fmt: skip
def test_values_that_a_list_of_ones_own_does_not_take(
    own: Callable[..., Ran], runs: list[int], value: str
) -> None:
    ran = own(GOOD, "--eval-options", value)
    name = value.partition("=")[0]
    assert ran.code == 2 and f"--eval-options {name}: " in ran.err and ": give " in ran.err
    assert len(ran.err.splitlines()) == 1 and not runs


def test_several_sizes_give_a_list_each(own: Callable[..., Ran]) -> None:
    plain = own(GOOD, "--eval-options", "iou_thr=[0.1,0.5]")
    assert plain.code == 0, plain.err
    words = ("--eval-options", "scale_ranges=[(0,1000),(0,1)]", "iou_thr=[0.1,0.5]")
    ran = own(GOOD, *words)
    assert ran.code == 0, ran.err

    def figures(one: Ran) -> dict[str, str]:
        return dict(line.split(": ") for line in one.out.splitlines() if line.count(": ") == 1)

    for name in ("AP10", "AP50", "mAP"):
        whole = float(figures(plain)[name])
        assert figures(ran)[name] == f"[{whole}, 0.0]"


@pytest.mark.parametrize(
    ("ann", "said"),
    [
        ({"labels": np.array([0])}, "labels has the shape (1,) for 2 boxes, not (2,)"),
        ({"labels": np.array([1, 3])}, "label 3, where 3 classes have labels 0 to 2"),
        ({"labels": np.array([-1, 0])}, "label -1, where 3 classes"),
        ({"labels": np.array([0.0, 1.0])}, "labels is of type float64: give whole numbers"),
        ({"bboxes": BOXES[:, :3]}, "bboxes has the shape (2, 3), not (n, 4)"),
        ({"bboxes": BOXES * np.nan}, "bboxes holds what is no number"),
        ({"labels_ignore": np.array([0])}, "KeyError: 'bboxes_ignore'"),
        (
            {"bboxes_ignore": BOXES, "labels_ignore": np.array([0])},
            "labels_ignore has the shape (1,) for 2 boxes",
        ),
    ],
)
def test_objects_of_ones_own_that_do_not_fit(
    own: Callable[..., Ran], runs: list[int], ann: dict[str, Any], said: str
) -> None:
    ran = own({**GOOD, **ann})
    assert ran.code == 2 and f"a.pkl: the objects of 000.png cannot be read ({said}" in ran.err
    assert not runs


def test_labels_that_never_are_0_are_told(own: Callable[..., Ran]) -> None:
    ran = own({**GOOD, "labels": np.array([1, 2])})
    assert ran.code == 0 and "no object has label 0 (circle): labels count from 0" in ran.err


@pytest.mark.parametrize("key", ["ann_file", "proposal_file"])
def test_a_pickle_runs_no_code(
    own: Callable[..., Ran], tmp_path: Path, runs: list[int], key: str
) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps([Runs(str(tmp_path / "ran"))]))
    ran = own(GOOD, "--cfg-options", f"data.test.{key}={tmp_path / 'evil.pkl'}")
    assert ran.code == 2 and "evil.pkl: holds " in ran.err and "can run code that way" in ran.err
    (tmp_path / "evil.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path}/ran']\n")
    ran = own(GOOD, "--cfg-options", f"data.test.{key}={tmp_path / 'evil.yaml'}")
    assert ran.code == 2 and "evil.yaml: holds Python objects" in ran.err
    assert not (tmp_path / "ran").exists() and not runs


def test_an_image_without_its_sizes_names_the_key(
    onnxdet: Run, tiny: Tiny, dynamic: Path, tmp_path: Path, runs: list[int]
) -> None:
    config = tmp_path / "c.py"
    collect = "dict(type='Collect', keys=['img']"
    text = tiny.config.read_text()
    assert collect in text
    config.write_text(text.replace(collect, f"{collect}, meta_keys=('filename',)"))
    said = "gives no ori_shape and no img_shape and no scale_factor: name it in the meta_keys of"
    ran = onnxdet("test", config, dynamic, *ORT, "--eval", "bbox")
    assert ran.code == 2 and said in ran.err and "Collect.meta_keys" in ran.err and not runs
    words = ("--output-file", tmp_path / "g.onnx", "--shape", 96, 128, "--verify")
    ran = onnxdet("export", config, tiny.checkpoint, *words)
    assert ran.code == 2 and said in ran.err, ran.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("data.test.colour=1",), "unexpected keyword argument 'colour'): correct data.test: Coco"),
        (("data.test.type=Own",), "is not in the dataset registry): correct data.test.type, or"),
        (("data.test.pipeline.0.type=Own",), "pipeline registry): correct data.test.pipeline"),
        (("data.test.pipeline.0.colour=1",), "correct data.test.pipeline, its LoadImageFromFile"),
        (("data.test.pipeline.1.img_scale=128",), "has img_scale=128: give width and height in px"),
        (("data.test.type=VOCDataset",), "correct data.test: its type, VOCDataset, does not take"),
        (
            ("data.test.ann_file=gone.json",),
            "gone.json: the test data cannot be opened (FileNotFoundError",
        ),
        (("data.test.ann_file=gone.json",), ": set data.test.ann_file and data.test.img_prefix"),
    ],
)
def test_data_that_do_not_open_get_the_remedy_that_fits(
    tried: Callable[..., Ran], runs: list[int], options: tuple[str, ...], said: str
) -> None:
    ran = tried(options=options)
    assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1, ran.err
    assert not runs


def test_a_package_that_is_missing_is_to_be_installed() -> None:
    from pytest_onnxdet.data.unopened import why_unopened

    said = why_unopened({"type": "LVISDataset"}, ImportError('Package lvis is not installed. Run"'))
    assert "(ImportError: Package lvis is not installed." in said
    assert said.endswith(": install what LVISDataset needs")


def test_a_graph_with_masks_for_a_detector_without(
    onnxdet: Run, tiny: Tiny, masked: Tiny, stock_masks: Path, dynamic: Path
) -> None:
    ran = onnxdet("test", tiny.config, stock_masks, *ORT, "--eval", "bbox")
    said = f"gives masks, but the detector of {tiny.config} finds none: is that the config"
    assert ran.code == 0 and said in ran.err, ran.err
    ran = onnxdet("test", masked.config, dynamic, *ORT, "--eval", "bbox")
    said = f"gives no masks, but the detector of {masked.config} finds them: is that the config"
    assert ran.code == 0 and said in ran.err, ran.err


def test_an_empty_graph_is_called_empty(onnxdet: Run, tiny: Tiny, tmp_path: Path) -> None:
    for name, raw in (("empty.onnx", b""), ("none.onnx", onnx.ModelProto().SerializeToString())):
        (tmp_path / name).write_bytes(raw)
        ran = onnxdet("test", tiny.config, tmp_path / name, *ORT, "--eval", "bbox")
        assert ran.code == 2 and f"{name}: is empty: export it again" in ran.err, ran.err


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("export", "{}.py"), "CONFIG"),
        (("export", "mini:retinanet", "{}.pth"), "CHECKPOINT"),
        (("export", "mini:retinanet", "--output-file", "{}.onnx"), "--output-file"),
        (("export", "mini:retinanet", "--input-img", "{}.png"), "--input-img"),
        (("test", "mini:retinanet", "{}.onnx", *ORT, "--eval", "bbox"), "MODEL"),
        (("test", "mini:retinanet", "{graph}", *ORT, "--out", "{}.pkl"), "--out"),
        (("cache", "--cache", "{}"), "--cache"),
    ],
)
def test_a_name_too_long_for_a_file(
    onnxdet: Run, dynamic: Path, words: tuple[str, ...], option: str
) -> None:
    name = "a" * 300
    filled = [word.replace("{}", name).replace("{graph}", str(dynamic)) for word in words]
    ran = onnxdet(*filled)
    assert ran.code == 2 and f"{option}: {'a' * 200}...: a name too long" in ran.err, ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_name_with_a_zero_byte_is_spelt_out(
    tried: Callable[..., Ran], document: dict[str, Any]
) -> None:
    document["images"][2]["file_name"] = "a\0\x1b[31m.png"
    ran = tried()
    assert ran.code == 2 and "a\\x00\\x1b[31m.png: " in ran.err, ran.err


def test_a_mistake_in_the_words_is_one_line(onnxdet: Run) -> None:
    ran = onnxdet("cache", "--prune", "--older-than", "-1d")
    said = "error: argument --older-than: expected one argument (see onnxdet cache --help)"
    assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1
