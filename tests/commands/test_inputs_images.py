"""``onnxdet test`` gives mmdet's own figures on images as people have them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from against_mmdet import (
    IMAGES,
    ORT,
    Document,
    Mini,
    Run,
    compare,
    written,
)
from cli_models import first_annotations


@pytest.fixture
def document() -> Document:
    return first_annotations(IMAGES)


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
