"""Write drawn scenes in the layout of Pascal VOC: a small data set to try VOC evaluation on.

Running it again gives the same bytes. Usage: python tools/draw_voc.py --out DIR [--count N]

The result, with mmdet's ``VOCDataset`` (``ann_file`` and ``img_prefix`` are these two)::

    DIR/VOC2007/ImageSets/Main/test.txt
    DIR/VOC2007/    Annotations/000.xml …  JPEGImages/000.jpg …
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

import cv2

from pytest_onnxdet.data.scenes import CLASSES, VAL_SEED, Scene, draw_scene

COUNT = 12
QUALITY = 95  # of the JPEG files: VOC has no other format


def annotation(scene: Scene, name: str) -> ElementTree.Element:
    """VOC's description of an image: whole pixels that count from 1, as in the original."""
    root = ElementTree.Element("annotation")
    _add(root, "filename", f"{name}.jpg")
    height, width = scene.image.shape[:2]
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, key, value)
    for box, label in zip(scene.boxes, scene.labels, strict=True):
        entry = ElementTree.SubElement(root, "object")
        _add(entry, "name", CLASSES[label])
        _add(entry, "difficult", 0)
        corners = ElementTree.SubElement(entry, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            _add(corners, key, round(float(value)) + 1)
    return root


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)


def draw(out: Path, count: int = COUNT) -> Path:
    """Write ``count`` scenes below ``out``; returns the folder ``VOC2007``."""
    root = out / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{index:03d}" for index in range(count)]
    for index, name in enumerate(names):
        scene = draw_scene(VAL_SEED, index)
        path = root / "JPEGImages" / f"{name}.jpg"
        cv2.imwrite(str(path), scene.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        tree = ElementTree.ElementTree(annotation(scene, name))
        ElementTree.indent(tree)
        tree.write(root / "Annotations" / f"{name}.xml")
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(names) + "\n")
    return root


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args()
    print(draw(args.out, args.count))


if __name__ == "__main__":
    main()
