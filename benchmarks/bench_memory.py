"""Does a run over a full-size data set stay within flat memory, and how much of it is evaluation?

Draws scenes laid out as COCO val2017 (80 categories, of which three are used) and runs a mini
detector on the first 500 and on all 5,000 of them, each time in a process of its own, in two ways:

test   ``onnxdet test`` with a graph that ``onnxdet export`` wrote, and annotations of these images;
suite  ``pytest --onnxdet --onnxdet-profile full --onnxdet-data DIR --onnxdet-limit N -m accuracy``,
       the mini being registered as a full-size model: PyTorch and ONNX Runtime, and AP of both. The
       annotations are those of all images each time.

Prints for each run the peak resident memory, the time and the share of evaluation. What may grow
are the annotations, boxes, run-length encoded masks, and what evaluation keeps of a match; the
growth is printed for each further image. Bars: ten times the images take at most a quarter more
memory, and evaluation at most 10 % of a run over all of them; beyond, exit code 1. Mask R-CNN takes
a quarter of an hour.

Usage: python benchmarks/bench_memory.py [--path test suite] [--model retinanet]
           [--images 500 5000] [--batch-size 1] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from draw_scenes import coco_annotations  # noqa: E402

from pytest_onnxdet.data.scenes import draw_scene  # noqa: E402
from pytest_onnxdet.models.zoo import COCO_CLASSES  # noqa: E402

SEED = 5  # neither of the training nor of the validation split
FLAT, EVALUATION = 1.25, 0.10
MASKED = ("mask_rcnn", "cascade_mask_rcnn", "point_rend")
MEASURED = """
import resource, sys, time

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

from pytest_onnxdet.commands import evaluate as place
own = place.evaluate
def evaluate(*args):
    print("before kB:", peak())
    return own(*args)
place.evaluate = evaluate

start = time.perf_counter()
if sys.argv[1] == "pytest":
    import pytest
    code = pytest.main(sys.argv[2:])
else:
    from pytest_onnxdet.cli import main
    code = main(sys.argv[1:])
print("seconds:", time.perf_counter() - start)
print("peak kB:", peak())
sys.exit(code)
"""
# The mini as a full-size model: on the data set that --onnxdet-data names.
CONFTEST = """
from dataclasses import replace

from pytest_onnxdet.models.mini import mini_specs
from pytest_onnxdet.models.zoo import COCO_CLASSES


def pytest_onnxdet_models(registry):
    for spec in mini_specs():
        full = dict(profile="full", dataset="coco_val2017", classes=COCO_CLASSES, expected_ap={})
        registry.register(replace(spec, name=f"drawn_{spec.name}", **full))
"""


class Ran(NamedTuple):
    """What a process gave: its output, and how it went.

    Attributes:
        out: standard output.
        peak: its peak resident memory, MB.
        seconds: of the command, without the process's start.
    """

    out: str
    peak: float
    seconds: float


def draw(folder: Path, count: int) -> Path:
    """The first so many scenes laid out as COCO val2017; the folder to give as the data's.

    Images are shared by the layouts of all counts.
    """
    images = folder / "images"
    layout = folder / f"coco-{count}"
    images.mkdir(parents=True, exist_ok=True)
    (layout / "annotations").mkdir(parents=True, exist_ok=True)
    listed, objects = [], []
    for index in range(count):
        scene = draw_scene(SEED, index)
        name = f"{index + 1:012d}.png"
        if not (images / name).is_file():
            cv2.imwrite(str(images / name), scene.image)
        height, width = scene.image.shape[:2]
        listed.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        objects += coco_annotations(scene, index + 1, len(objects) + 1)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(COCO_CLASSES)]
    document = {"images": listed, "annotations": objects, "categories": categories}
    (layout / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    if not (layout / "val2017").exists():
        (layout / "val2017").symlink_to(images, target_is_directory=True)
    return layout


def measured(*words: object, cwd: Path) -> Ran:
    """Runs ``onnxdet`` or ``pytest`` with these words in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{' '.join(map(str, words))} gave {done.returncode}")
    seconds = float(re.findall(r"seconds: ([\d.]+)", done.stdout)[0])
    return Ran(done.stdout, _megabytes(done.stdout, "peak"), seconds)


def _megabytes(out: str, name: str) -> float:
    unit = 1e6 if sys.platform == "darwin" else 1e3  # ru_maxrss: bytes there, kB elsewhere
    return float(re.findall(rf"{name} kB: (\d+)", out)[0]) / unit


def by_test(args: argparse.Namespace, folder: Path) -> bool:
    """``onnxdet test`` at every count of images; whether the bars are held."""
    config, graph = f"mini:{args.model}", folder / f"{args.model}.onnx"
    measured(
        *("export", config, "--output-file", graph, "--dynamic-export", "--shape", 128, 160),
        *("--opset-version", 17),
        cwd=folder,
    )
    metrics = ["bbox", "segm"] if args.model in MASKED else ["bbox"]
    peaks, early = [], []
    for count in args.images:
        data = draw(folder, count)
        ran = measured(
            *("test", config, graph, "--backend", "onnxruntime", "--eval", *metrics),
            *("--batch-size", args.batch_size, "--cfg-options"),
            f"data.test.ann_file={data / 'annotations' / 'instances_val2017.json'}",
            f"data.test.img_prefix={data / 'val2017'}",
            f"data.test.classes=[{','.join(COCO_CLASSES[:3])}]",
            cwd=folder,
        )
        evaluated = float(re.findall(r"Evaluated in ([\d.]+) s", ran.out)[0])
        ap = ", ".join(re.findall(r"\w+_mAP: [\d.]+", ran.out))
        early.append(_megabytes(ran.out, "before"))
        peaks.append(ran.peak)
        before = f" ({early[-1]:.0f} MB before evaluation)"
        share = tell(f"onnxdet test {args.model}", count, ran, evaluated, ap, before)
    grown("before evaluation", args.images, early)
    grown("in all", args.images, peaks)
    return held(peaks, share)


def by_suite(args: argparse.Namespace, folder: Path) -> bool:
    """The accuracy check of the full profile at every count; whether the bars are held."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    shutil.rmtree(folder / "cache", ignore_errors=True)  # kept results would not be measured
    data, peaks = draw(folder, max(args.images)), []
    for number, count in enumerate(args.images):
        words = (
            *("pytest", "--onnxdet", "--onnxdet-profile", "full", "--onnxdet-report", "report"),
            *("--onnxdet-data", data, "--onnxdet-limit", count),
            *("--onnxdet-model", f"drawn_{args.model}"),
            *("--onnxdet-backend", "onnxruntime", "--onnxdet-shape", args.shape),
            *("--onnxdet-batch", args.batch_size, "--onnxdet-cache", "cache"),
        )
        if number == 0:
            # Exporting takes memory of its own, and is done once whatever the count.
            measured(*words, "-m", "export", cwd=folder)
        ran = measured(*words, "-m", "accuracy", cwd=folder)
        cases = json.loads((folder / "report" / "report.json").read_text())["cases"]
        (figures,) = (case["metrics"] for case in cases)
        ap = ", ".join(f"{k}: {v:.4f}" for k, v in figures.items() if "mAP" in k)
        peaks.append(ran.peak)
        share = tell(f"suite {args.model}", count, ran, figures["evaluation_seconds"], ap)
    grown("in all", args.images, peaks)
    return held(peaks, share)


def tell(what: str, count: int, ran: Ran, evaluated: float, ap: str, early: str = "") -> float:
    """Prints a run; the share of evaluation in it."""
    share = 100 * evaluated / ran.seconds
    print(
        f"{what}, {count} images: peak RSS {ran.peak:.0f} MB{early}, {ran.seconds:.1f} s, "
        f"evaluation {evaluated:.1f} s ({share:.1f} % of the run); {ap}",
        flush=True,
    )
    return share / 100


def grown(what: str, counts: Sequence[int], peaks: Sequence[float]) -> None:
    if len(peaks) > 1:
        each = (peaks[-1] - peaks[0]) / max(1, counts[-1] - counts[0]) * 1e3
        print(f"growth {what}: {peaks[-1] - peaks[0]:.0f} MB, {each:.1f} kB for each further image")


def held(peaks: Sequence[float], share: float) -> bool:
    """Prints whether memory is flat and the last run's share of evaluation small.

    Of a single count nothing is said: there is nothing to compare with, and few images are run in
    less time than evaluation takes to start.
    """
    if len(peaks) < 2:
        return True
    ratio = peaks[-1] / peaks[0]
    for text, value, bar in (("memory", ratio, FLAT), ("evaluation", share, EVALUATION)):
        print(f"{text} {value:.2f}, bar {bar:.2f}: {'held' if value <= bar else 'NOT HELD'}")
    return ratio <= FLAT and share <= EVALUATION


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_KEEP)
    parser.add_argument("--path", nargs="+", choices=("test", "suite"), default=["test", "suite"])
    parser.add_argument("--model", default="retinanet")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--shape", default="dynamic", choices=("static", "dynamic"))
    parser.add_argument("--folder", type=Path, help="keep data and graph here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        paths = {"test": by_test, "suite": by_suite}
        verdicts = [paths[name](args, folder) for name in args.path]
    return int(not all(verdicts))


_KEEP = argparse.RawDescriptionHelpFormatter


if __name__ == "__main__":
    raise SystemExit(main())
