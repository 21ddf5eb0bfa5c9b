"""Write the validation split of the drawn scenes: PNG files and a COCO json.

Running it again gives the same bytes. Usage: python tools/draw_scenes.py [--out DIR]

At the end comes a crowd, in which every mini detector has more candidates than it keeps. It is
annotated as COCO annotates crowds, one region a class with ``iscrowd``: what a detector finds there
counts neither for nor against its AP, while parity compares all of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pytest_onnxdet.data.scenes import CLASSES, VAL_SEED, Scene, draw_crowd, draw_scene

COUNT = 72
CROWDS = 1
EMPTY = (7, 23, 40, 58)
DEFAULT = Path(__file__).resolve().parents[1] / "pytest_onnxdet" / "data" / "shapes"


def polygon_area(polygon: Any) -> float:
    """Area inside a polygon, float (p, 2), by the shoelace formula; square pixels."""
    x, y = np.asarray(polygon, np.float64).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def coco_annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO annotations of one scene; category ids start at 1."""
    drawn = []
    for offset, polygon in enumerate(scene.polygons):
        x1, y1, x2, y2 = (float(v) for v in scene.boxes[offset])
        drawn.append(
            {
                "id": first_id + offset,
                "image_id": image_id,
                "category_id": int(scene.labels[offset]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": round(polygon_area(polygon), 4),
                "segmentation": [[float(v) for v in polygon.reshape(-1)]],
                "iscrowd": 0,
            }
        )
    return drawn


def crowd_annotations(image_id: int, first_id: int, size: tuple[int, int]) -> list[dict[str, Any]]:
    """COCO annotations of a crowd, height and width ``size``: the whole image for each class."""
    height, width = size
    return [
        {
            "id": first_id + label,
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": [0.0, 0.0, float(width), float(height)],
            "area": float(height * width),
            "segmentation": {"size": [height, width], "counts": [0, height * width]},
            "iscrowd": 1,
        }
        for label in range(len(CLASSES))
    ]


def main() -> None:
    """Draw and write the split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--crowds", type=int, default=CROWDS, help="crowded scenes at the end")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    (args.out / "val").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for index in range(args.count + args.crowds):
        crowded = index >= args.count
        if crowded:
            scene = draw_crowd(VAL_SEED, index)
        else:
            scene = draw_scene(VAL_SEED, index, empty=index in EMPTY)
        name = f"{index:03d}.png"
        cv2.imwrite(str(args.out / "val" / name), scene.image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        height, width = scene.image.shape[:2]
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        first = len(objects) + 1
        if crowded:
            objects += crowd_annotations(index + 1, first, (height, width))
        else:
            objects += coco_annotations(scene, index + 1, first)
    document = {
        "info": {"description": "Drawn circles, squares and triangles, validation split"},
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "images": images,
        "annotations": objects,
    }
    text = json.dumps(document, separators=(",", ":"))
    (args.out / "annotations.json").write_text(text + "\n")
    print(f"{len(images)} images, {len(objects)} objects: {args.out}")


if __name__ == "__main__":
    main()
