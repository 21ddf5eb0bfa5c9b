"""``onnxdet test`` gives mmdet's own figures on data sets as people have them.

mmdet's are those of ``single_gpu_test`` and the data set's ``evaluate``, of PyTorch's detector.
Where mmdet cannot read a file, as a key is missing, it is given one that was completed by hand.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from cli_models import Ran

from pytest_onnxdet.cli import main
from pytest_onnxdet.data.datasets import SHAPES

Run = Callable[..., Ran]
Document = dict[str, Any]
ORT = ("--backend", "onnxruntime")
IMAGES = 8
TOLERANCE = 1e-4 + 1e-9  # AP; mmdet gives four decimals
NAMES = ("not and or", "<b>&amp;</b>", "Größe 🙂")
MIN_AP = 0.3  # a comparison of 0 with 0 would compare nothing


class Mini(NamedTuple):
    """A trained detector of boxes and masks."""

    detector: Any
    config: Path
    graph: Path


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    from pytest_onnxdet.commands.common import build, open_config

    folder = tmp_path_factory.mktemp("mini")
    model = open_config("mini:mask_rcnn", None)
    model.cfg.dump(str(folder / "mask_rcnn.py"))
    words = ["export", "mini:mask_rcnn", "--output-file", str(folder / "g.onnx"), "--shape"]
    words += ["128", "160", "--dynamic-export", "--opset-version", "17"]
    assert main(words) == 0
    return Mini(build(model, None), folder / "mask_rcnn.py", folder / "g.onnx")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(IMAGES):
        shutil.copy(SHAPES / "val" / f"{number:03d}.png", folder)
    return folder


@pytest.fixture
def document() -> Document:
    whole = json.loads((SHAPES / "annotations.json").read_text())
    whole["images"] = whole["images"][:IMAGES]
    ids = {image["id"] for image in whole["images"]}
    whole["annotations"] = [a for a in whole["annotations"] if a["image_id"] in ids]
    return dict(whole)


def theirs(mini: Mini, data: dict[str, Any], metrics: list[str]) -> dict[str, float]:
    """mmdet's figures."""
    from mmcv import Config
    from mmcv.parallel import MMDataParallel
    from mmdet.apis import single_gpu_test
    from mmdet.datasets import build_dataloader, build_dataset

    test = Config.fromfile(str(mini.config)).data.test
    test.update(data, test_mode=True)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = build_dataset(test)
        loader = build_dataloader(
            dataset, samples_per_gpu=1, workers_per_gpu=0, dist=False, shuffle=False
        )
        model = MMDataParallel(copy.deepcopy(mini.detector), device_ids=[-1])
        figures = dataset.evaluate(single_gpu_test(model, loader), metric=metrics)
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def compare(
    onnxdet: Run,
    mini: Mini,
    ours: dict[str, Any],
    mmdets: dict[str, Any] | None = None,
    metrics: tuple[str, ...] = ("bbox", "segm"),
    min_ap: float = MIN_AP,
) -> str:
    """Holds every figure to mmdet's; returns what the command said on stderr."""
    config = Path(ours["img_prefix"]).parent / "config.py"
    config.write_text(f"{mini.config.read_text()}\ndata['test'].update({ours!r})\n", "utf-8")
    ran = onnxdet("test", config, mini.graph, *ORT, "--eval", *metrics)
    assert ran.code == 0, ran.err
    lines = [line.split(": ") for line in ran.out.splitlines() if line.count(": ") == 1]
    found = {name: value for name, value in lines if name.startswith(metrics)}
    wanted = theirs(mini, ours if mmdets is None else mmdets, list(metrics))
    assert len(wanted) == 6 * len(metrics)
    for name, value in wanted.items():
        assert abs(float(found[name]) - value) <= TOLERANCE, (name, found[name], value)
    assert min(wanted[f"{metric}_mAP"] for metric in metrics) > min_ap
    return ran.err


def change_nothing(document: Document) -> None:
    pass


def gaps(document: Document) -> None:
    """Category and image ids with gaps, in another order than they are listed."""
    for category in document["categories"]:
        category["id"] = 90 - 7 * category["id"]
    for image in document["images"]:
        image["id"] = 5000 - 13 * image["id"]
    for one in document["annotations"]:
        one["category_id"] = 90 - 7 * one["category_id"]
        one["image_id"] = 5000 - 13 * one["image_id"]


def text_ids(document: Document) -> None:
    for image in document["images"]:
        image["id"] = f"image {image['id']}"
    for one in document["annotations"]:
        one["image_id"] = f"image {one['image_id']}"


def from_zero(document: Document) -> None:
    """Ids of everything from 0, which pycocotools takes for no match."""
    for number, one in enumerate(document["annotations"]):
        one["id"] = number
    for category in document["categories"]:
        category["id"] -= 1
    for one in document["annotations"]:
        one["category_id"] -= 1


def run_lengths(document: Document) -> None:
    """Masks as run lengths, every other one compressed."""
    from pycocotools import mask as runs

    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for one in document["annotations"]:
        encoded = runs.merge(runs.frPyObjects(one["segmentation"], *sizes[one["image_id"]]))
        if one["id"] % 2:
            one["segmentation"] = {**encoded, "counts": encoded["counts"].decode()}
            continue
        pixels = runs.decode(encoded).ravel(order="F")
        borders = np.flatnonzero(np.diff(pixels)) + 1
        counts = np.diff([0, *borders, pixels.size]).tolist()
        first = [0] if pixels[0] else []
        one["segmentation"] = {"size": encoded["size"], "counts": first + counts}


def odd_boxes(document: Document) -> None:
    """Without extent, inside out, and outside of the image."""
    base = document["annotations"][0]
    for number, box in enumerate(([5, 5, 0, 9], [9, 9, -4, -4], [900, 9, 9, 9], [-9, -9, 3, 3])):
        document["annotations"].append({**base, "id": 1000 + number, "bbox": box})


def crowds(document: Document) -> None:
    for one in document["annotations"][::3]:
        one["iscrowd"] = 1


def other_categories(document: Document) -> None:
    """Categories that the model knows nothing of, between its own."""
    document["categories"].insert(1, {"id": 50, "name": "hexagon"})
    document["annotations"].append({**document["annotations"][0], "id": 999, "category_id": 50})


def hostile_names(document: Document) -> None:
    for category, name in zip(document["categories"], NAMES, strict=True):
        category["name"] = name


@pytest.mark.parametrize(
    ("change", "metrics"),
    [
        (change_nothing, ("bbox", "segm")),
        (gaps, ("bbox", "segm")),
        (text_ids, ("bbox",)),
        (from_zero, ("bbox",)),
        (run_lengths, ("bbox", "segm")),
        (odd_boxes, ("bbox",)),
        (crowds, ("bbox", "segm")),
        (other_categories, ("bbox",)),
    ],
)
def test_annotations(
    onnxdet: Run,
    mini: Mini,
    images: Path,
    document: Document,
    tmp_path: Path,
    change: Callable[[Document], None],
    metrics: tuple[str, ...],
) -> None:
    change(document)
    compare(onnxdet, mini, written(tmp_path, images, document), metrics=metrics)


def written(folder: Path, images: Path, document: Document, name: str = "a") -> dict[str, Any]:
    """The settings of a data set whose annotations are written."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    return {"ann_file": str(path), "img_prefix": str(images)}


def test_names_that_are_no_words(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    """Keywords of pytest, HTML, other scripts."""
    hostile_names(document)
    data = {**written(tmp_path, images, document), "classes": NAMES}
    compare(onnxdet, mini, data, metrics=("bbox",))


def drop(document: Document, kind: str, *keys: str) -> None:
    for one in document[kind]:
        for key in keys:
            one.pop(key)


def without_iscrowd(document: Document) -> None:
    drop(document, "annotations", "iscrowd")


def null_iscrowd(document: Document) -> None:
    for one in document["annotations"]:
        one["iscrowd"] = None


def without_area(document: Document) -> None:
    drop(document, "annotations", "area")


def without_size(document: Document) -> None:
    drop(document, "images", "height", "width")


def float_sizes(document: Document) -> None:
    for image in document["images"]:
        image.update(height=float(image["height"]), width=float(image["width"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_iscrowd, "no iscrowd in"),
        (null_iscrowd, "no iscrowd in"),
        (without_area, "no area in"),
        (without_size, "no height or width of 8 images"),
        (float_sizes, ""),
    ],
)
def test_what_is_completed_is_what_would_have_been_there(
    onnxdet: Run,
    mini: Mini,
    images: Path,
    document: Document,
    tmp_path: Path,
    change: Callable[[Document], None],
    said: str,
) -> None:
    whole = written(tmp_path, images, document, "whole")
    change(document)
    told = compare(onnxdet, mini, written(tmp_path, images, document), whole)
    assert told.count("warning: ") == bool(said) and said in told


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path, encoding: str
) -> None:
    whole = written(tmp_path, images, document, "whole")
    data = written(tmp_path, images, document)
    text = json.dumps(document, indent=1).replace("\n", "\r\n")
    Path(data["ann_file"]).write_bytes(text.encode(encoding))
    compare(onnxdet, mini, data, whole, metrics=("bbox",))


def test_without_segmentation_boxes_are_evaluated(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    drop(document, "annotations", "segmentation")
    compare(onnxdet, mini, written(tmp_path, images, document), metrics=("bbox",))


def test_paths_below_a_root_and_outside_of_the_folder(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    for number, image in enumerate(document["images"]):
        if number % 3 == 1:
            (images / image["file_name"]).rename(tmp_path / "other" / image["file_name"])
            image["file_name"] = f"../other/{image['file_name']}"
        elif number % 3 == 2:
            image["file_name"] = str(images / image["file_name"])
    data = written(tmp_path, images, document)
    data |= {"ann_file": "a.json", "img_prefix": "images"}
    compare(
        onnxdet,
        mini,
        {**data, "data_root": str(tmp_path), "img_prefix": str(images)},
        {**data, "data_root": str(tmp_path)},
        metrics=("bbox",),
    )


def rewritten(images: Path, document: Document, suffix: str, write: Callable[..., Any]) -> None:
    """Every image anew, in another format; ``write`` gets a PIL image and its place."""
    from PIL import Image

    for image in document["images"]:
        old = images / image["file_name"]
        image["file_name"] = str(Path(image["file_name"]).with_suffix(suffix))
        with Image.open(old) as opened:
            picture = opened.convert("RGB")
        old.unlink()
        write(picture, images / image["file_name"])


def palette(picture: Any, place: Path) -> None:
    picture.quantize(64).save(place)


def cmyk(picture: Any, place: Path) -> None:
    picture.convert("CMYK").save(place, quality=95)


def with_alpha(picture: Any, place: Path) -> None:
    picture.putalpha(90)
    picture.save(place)


def deep(picture: Any, place: Path) -> None:
    cv2.imwrite(str(place), np.array(picture)[..., ::-1].astype(np.uint16) * 257)


def interlaced_gif(picture: Any, place: Path) -> None:
    picture.save(place, "WEBP", lossless=True)


def without_name(picture: Any, place: Path) -> None:
    picture.save(place, "PNG")


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".png", palette),
        (".jpg", cmyk),
        (".png", with_alpha),
        (".png", deep),
        (".webp", interlaced_gif),
        (".bmp", lambda picture, place: picture.save(place)),
        (".tif", lambda picture, place: picture.save(place, compression="tiff_lzw")),
        ("", without_name),
        (".jpg", without_name),
    ],
)
def test_formats(
    onnxdet: Run,
    mini: Mini,
    images: Path,
    document: Document,
    tmp_path: Path,
    suffix: str,
    write: Callable[..., Any],
) -> None:
    rewritten(images, document, suffix, write)
    assert "warning" not in compare(onnxdet, mini, written(tmp_path, images, document))


def turned(picture: Any, place: Path) -> None:
    """Stored on its side, as a camera does, and said so."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(place, quality=95, exif=exif)


def test_photographs_that_were_turned(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    """Listed as they are read, or as they are stored; the latter is said."""
    rewritten(images, document, ".jpg", turned)
    assert "EXIF" not in compare(onnxdet, mini, written(tmp_path, images, document))
    for image in document["images"]:
        image["height"], image["width"] = image["width"], image["height"]
    data = written(tmp_path, images, document)
    told = compare(onnxdet, mini, data, metrics=("bbox",))
    assert "(and 7 more): 1" not in told and told.count("turned by its EXIF orientation") == 1
    settings = [f"data.test.{key}={value}" for key, value in data.items()]
    ran = onnxdet(
        *("test", mini.config, mini.graph, *ORT, "--eval", "segm", "--cfg-options", *settings)
    )
    assert ran.code == 2 and "its masks cannot be compared" in ran.err


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_that_breaks_off(
    onnxdet: Run,
    mini: Mini,
    images: Path,
    document: Document,
    tmp_path: Path,
    runs: list[int],
    suffix: str,
) -> None:
    """OpenCV reads what there is of it or nothing, by version and format; both are said at once."""
    rewritten(images, document, suffix, lambda picture, place: picture.save(place, quality=95))
    for image in document["images"][:2]:
        path = images / image["file_name"]
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    data = written(tmp_path, images, document)
    raw = np.fromfile(images / document["images"][0]["file_name"], np.uint8)
    if cv2.imdecode(raw, cv2.IMREAD_COLOR) is not None:
        told = compare(onnxdet, mini, data, metrics=("bbox",))
        assert told.count("(and 1 more): breaks off") == 1
        return
    settings = [f"data.test.{key}={value}" for key, value in data.items()]
    words = ("--eval", "bbox", "--cfg-options", *settings)
    ran = onnxdet("test", mini.config, mini.graph, *ORT, *words)
    assert ran.code == 2 and f"000{suffix}: breaks off, and cannot be read as an image" in ran.err
    assert not runs


def test_images_of_one_pixel_and_of_a_hundred_million(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    for number, (height, width) in enumerate(((1, 1), (10_000, 10_000), (3, 40))):
        name = f"odd{number}.png"
        cv2.imwrite(str(images / name), np.full((height, width), 90, np.uint8))
        entry = {"id": 900 + number, "file_name": name, "height": height, "width": width}
        document["images"].append(entry)
    told = compare(onnxdet, mini, written(tmp_path, images, document), metrics=("bbox",))
    assert "warning" not in told


def test_an_image_with_thousands_of_objects(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    base = document["annotations"][0]
    for number in range(4000):
        box = [number % 50, number // 50, 3 + number % 7, 4]
        more = {"id": 1000 + number, "bbox": box, "image_id": document["images"][-1]["id"]}
        document["annotations"].append({**base, **more, "category_id": 1 + number % 3})
    compare(onnxdet, mini, written(tmp_path, images, document), metrics=("bbox",), min_ap=-1)


@pytest.mark.parametrize("kind", ["crowds", "nothing"])
def test_no_object_to_find(
    onnxdet: Run, mini: Mini, images: Path, document: Document, tmp_path: Path, kind: str
) -> None:
    if kind == "nothing":
        document["annotations"].clear()
    for one in document["annotations"]:
        one["iscrowd"] = 1
    data = written(tmp_path, images, document)
    told = compare(onnxdet, mini, data, metrics=("bbox",), min_ap=-2)
    assert "no object to find, and no AP (mmdet gives -1)" in told


BARE = {
    "PYTHONOPTIMIZE": "2",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "LC_ALL": "C",
    "PATH": "/usr/bin:/bin",
}


def test_without_asserts_a_home_and_utf8(
    mini: Mini, images: Path, document: Document, tmp_path: Path
) -> None:
    """Python's -OO, a locale of ASCII, no HOME, and names that no ASCII holds."""
    hostile_names(document)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    data = {"ann_file": str(path), "img_prefix": str(images), "classes": NAMES}
    config = tmp_path / "config.py"
    text = mini.config.read_text("utf-8")
    config.write_text(f"{text}\ndata['test'].update({data!a})\n", "ascii")
    words = ("test", config, mini.graph, *ORT, "--eval", "bbox", "--show-dir", tmp_path / "out")
    ran = bare(*words, "--eval-options", "classwise=True")
    assert ran.code == 0, ran.err
    found = dict(line.split(": ") for line in ran.out.splitlines() if line.count(": ") == 1)
    wanted = theirs(mini, data, ["bbox"])
    assert (
        abs(float(found["bbox_mAP"]) - wanted["bbox_mAP"])
        <= TOLERANCE
        < MIN_AP
        < wanted["bbox_mAP"]
    )
    assert "Gr\\xf6\\xdfe" in ran.out and len(list((tmp_path / "out").iterdir())) == IMAGES

    (images / "000.png").rename(images / "größe.png")
    document["images"][0]["file_name"] = "größe.png"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    ran = bare(*words)
    assert ran.code == 2 and "lacks its letters: set PYTHONUTF8=1): put it there" in ran.err


def bare(*words: object) -> Ran:
    """The command in a process of its own, with hardly any environment."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest_onnxdet.cli", *map(str, words)],
        env={**BARE, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        check=False,
    )
    out, err = ran.stdout.decode("ascii"), ran.stderr.decode("ascii")
    assert "Traceback" not in err and "unforeseen" not in err, err
    return Ran(ran.returncode, out, err)
