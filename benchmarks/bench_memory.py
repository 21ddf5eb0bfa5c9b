"""Does `onnxdet test` stay within flat memory, and how much of a run is evaluation?

Draws scenes laid out as COCO val2017, exports a mini detector, and runs ``onnxdet test`` on the
first 500 and on all 5,000 images, each in a process of its own. Prints for each run the peak
resident memory, the time of inference and the share of evaluation. What may grow is what evaluation
needs: boxes and run-length encoded masks; the difference is printed for each image.

Usage: python benchmarks/bench_memory.py [--model mask_rcnn] [--images 500 5000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from draw_scenes import coco_annotations  # noqa: E402

from pytest_onnxdet.data.scenes import CLASSES, draw_scene  # noqa: E402

SEED = 5  # neither of the training nor of the validation split


def draw(folder: Path, count: int) -> None:
    (folder / "val2017").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, objects = [], []
    for index in range(count):
        scene = draw_scene(SEED, index)
        name = f"{index + 1:012d}.png"
        path = folder / "val2017" / name
        if not path.is_file():
            cv2.imwrite(str(path), scene.image)
        height, width = scene.image.shape[:2]
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        objects += coco_annotations(scene, index + 1, len(objects) + 1)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    document = {"images": images, "annotations": objects, "categories": categories}
    (folder / "annotations" / f"instances_{count}.json").write_text(json.dumps(document))


def onnxdet(*words: object) -> tuple[str, float]:
    """Runs the command; returns what it printed and the peak memory of that process in MB."""
    code = (
        "import resource, sys; from pytest_onnxdet.cli import main; code = main(sys.argv[1:]); "
        "print('peak kB:', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    unit = 1e6 if sys.platform == "darwin" else 1e3  # ru_maxrss: bytes there, kB elsewhere
    return done.stdout, float(re.findall(r"peak kB: (\d+)", done.stdout)[0]) / unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_KEEP)
    parser.add_argument("--model", default="mask_rcnn")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep data and graph here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        run(args, folder)


_KEEP = argparse.RawDescriptionHelpFormatter


def run(args: argparse.Namespace, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config, graph = f"mini:{args.model}", folder / f"{args.model}.onnx"
    onnxdet(
        *("export", config, "--output-file", graph, "--dynamic-export", "--shape", 128, 160),
        *("--opset-version", 17),
    )
    metrics = ["bbox", "segm"] if "mask" in args.model or args.model == "point_rend" else ["bbox"]
    peaks = []
    for count in args.images:
        draw(folder, count)
        out, peak = onnxdet(
            *("test", config, graph, "--backend", "onnxruntime", "--eval", *metrics),
            *("--batch-size", args.batch_size, "--cfg-options"),
            f"data.test.ann_file={folder / 'annotations' / f'instances_{count}.json'}",
            f"data.test.img_prefix={folder / 'val2017'}",
        )
        seconds = float(re.findall(r"images in ([\d.]+) s", out)[0])
        evaluated = float(re.findall(r"Evaluated in ([\d.]+) s", out)[0])
        share = 100 * evaluated / (seconds + evaluated)
        ap = ", ".join(re.findall(r"\w+_mAP: [\d.]+", out))
        peaks.append(peak)
        print(
            f"{args.model}, {count} images: peak RSS {peak:.0f} MB, {seconds:.1f} s, evaluation "
            f"{evaluated:.1f} s ({share:.1f} % of the run); {ap}",
            flush=True,
        )
    if len(peaks) > 1:
        more = args.images[-1] - args.images[0]
        growth = (peaks[-1] - peaks[0]) / max(1, more) * 1e3
        print(f"growth: {peaks[-1] - peaks[0]:.0f} MB, {growth:.1f} kB for each further image")


if __name__ == "__main__":
    main()
