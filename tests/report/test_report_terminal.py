"""How long the end of a run is: short where all is well, as long as failures need elsewhere."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_onnxdet.report import Record, summary_lines
from pytest_onnxdet.report.terminal import LINES

MODELS = (
    *("fcos", "fsaf", "retinanet", "ssd", "yolov3", "faster_rcnn", "cascade_rcnn", "mask_rcnn"),
    *("cascade_mask_rcnn", "cornernet", "detr", "point_rend"),
    *("yolox", "atss", "deformable_detr", "solov2"),
)
MASKS = ("mask_rcnn", "cascade_mask_rcnn", "point_rend", "solov2")
XDIST = (
    "latency is not measured under pytest-xdist, whose workers slow each other down: "
    "run pytest --onnxdet -m latency without -n"
)
ABSENT = {"tensorrt": "no GPU; without one only tensorrt_rtx builds: pip install tensorrt-rtx-cu13"}
ENVIRONMENT = {
    "versions": {"python": "3.11", "torch": "2.13.0", "onnxruntime": "1.32.0", "numpy": "1.26.4"},
    "platform": "Linux",
    "cpu": {"model": "a processor of a long name", "count": 2},
    "devices": [],
}


@pytest.fixture
def a_run(record, ap, timing):
    """The records of a default run of so many models; latency is skipped as under -n."""

    def made(models=MODELS, timed=True, backends=("onnxruntime",)) -> list[Record]:
        records = []
        for i, model in enumerate(models):
            parity = {"max_box_px": 1e-4 + i * 1e-6, "max_score": 1e-6, "images": 73}
            parity["cuts_reached"] = {"nms_pre": i % 2, "max_per_img": 0}
            if model in MASKS:
                parity["max_mask"] = 2e-5
            if model in ("ssd", "detr"):
                parity |= {"tied_images": 3, "tied_detections": 7}
            segm = {"segm": 0.4 + i / 100} if model in MASKS else {}
            figures = {"parity": parity, "accuracy": ap(0.5 + i / 100, **segm)}
            figures["latency"] = timing(5, 10 + i)
            for backend in backends:
                for shape in ("static", "dynamic"):
                    for batch in (1, 2, 3):
                        axes = {"shape": shape, "batch": batch, "backend": backend}
                        records += [
                            record(model, check, metrics=figures.get(check), **axes)
                            for check in ("export", "parity", "accuracy")
                        ]
                        last = {"metrics": figures["latency"]}
                        if not timed:
                            last = {"outcome": "skipped", "reason": XDIST}
                        records.append(record(model, "latency", **last, **axes))
        return records

    return made


def lines(records, width=100, **more):
    return [line for line, _ in summary_lines(records, ENVIRONMENT, width, ABSENT, **more)]


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(
    ("models", "backends"),
    [
        (MODELS, ("onnxruntime",)),
        (MODELS, ("onnxruntime", "tensorrt", "openvino")),
        (("ssd",), ("onnxruntime",)),
        (tuple(f"a_detector_of_our_own_{i}" for i in range(200)), ("onnxruntime",)),
    ],
)
@pytest.mark.parametrize("room", [22, LINES])
def test_a_run_in_which_all_is_well_is_short(a_run, width, timed, models, backends, room):
    shown = lines(a_run(models, timed, backends), width, room=room)
    assert len(shown) <= room
    assert all(len(line) <= width and line.isascii() for line in shown)


def test_every_model_of_the_default_run_is_there(a_run):
    shown = "\n".join(lines(a_run(timed=False), room=LINES - 5))
    assert all(f"{model} " in shown for model in MODELS)
    assert "cascade_mask_rcnn 58.0/48.0" in shown
    heading = "AP x 100 in PyTorch, each model's least; the graphs' is off by at most 0.00:"
    assert heading in shown
    assert "ONNX Runtime on cpu: export 96 ok, parity 96 ok, accuracy 96 ok." in shown
    assert "not run" not in shown


def test_the_speed_and_ap_that_are_furthest_off_are_named(a_run, ap):
    records = a_run()
    place = next(i for i, r in enumerate(records) if (r.model, r.check) == ("fcos", "accuracy"))
    records[place] = dataclasses.replace(records[place], metrics=ap(0.5, -0.0003))
    shown = " ".join(lines(records))
    assert "the graphs' is off by at most -0.03 (fcos-onnxruntime-static-b1):" in shown
    said = "Speed-up over PyTorch: median x3.50, least x2.00 (fcos-onnxruntime-dynamic-b1)."
    assert said in shown


def test_what_did_not_run_is_a_line_with_its_reason(a_run):
    shown = lines(a_run(timed=False), 120)
    start = "[1] Not run: 96 checks (latency; onnxruntime; 16 models): latency is not measured"
    assert sum(line.startswith(start) for line in shown) == 1
    assert f"Without tensorrt: {ABSENT['tensorrt']}" in shown
    assert not any("Not run" in line for line in lines(a_run()))


def test_models_that_do_not_fit_are_counted(a_run):
    shown = lines(a_run(tuple(f"detector_{i:03}" for i in range(200))), room=20)
    (left,) = (line for line in shown if line.startswith("and "))
    named = sum(
        line.count("detector_") for line in shown[shown.index(left) - 8 : shown.index(left)]
    )
    named = sum(line.count("detector_") for line in shown if line.startswith("detector_"))
    assert left == f"and {200 - named} more models"
    assert named


def test_few_models_have_their_tables(a_run):
    shown = lines([r for r in a_run(("mask_rcnn",)) if r.check != "latency"])
    assert "Support: onnxruntime on cpu, fp32" in shown
    assert "Results: AP x 100" in shown
    heading = next(line for line in shown if line.startswith("model      metric"))
    assert heading.split("  ")[-1].strip() == "ONNX Runtime"  # no column of what did not run


def test_a_check_that_nowhere_ran_has_no_place_in_the_cells(record):
    records = [record(), record(check="accuracy", outcome="skipped", reason="no annotations")]
    shown = lines(records)
    assert "retinanet  ok" in shown
    assert "In each cell: parity." in shown
    assert "[1] Not run: 1 check (accuracy; onnxruntime; retinanet): no annotations" in shown


def test_a_failure_shows_its_models_rows_and_no_others(a_run):
    records = a_run()
    wrong = [i for i, r in enumerate(records) if (r.model, r.check) == ("ssd", "parity")]
    for i in wrong:
        records[i] = dataclasses.replace(
            records[i], outcome="failed", reason="stage: export\nboxes"
        )
    shown = lines(records)
    assert "ONNX Runtime on cpu: export 96 ok, parity 90 ok 6 FAIL, accuracy 96 ok" in "\n".join(
        shown
    )
    rows = [line for line in shown if line.startswith(tuple(f"{model} " for model in MODELS))]
    assert [row.split()[:4] for row in rows] == [["ssd", "[1]", "ok", "FAIL"]]
    assert "    stage: export" in shown
    assert sum(line.startswith("Without tensorrt: ") for line in shown) == 1
    assert "Results: AP x 100" not in shown


def test_many_notes_on_data_are_counted(record):
    records = [record(metrics={"data_notes": [f"image {i} is odd" for i in range(9)]})]
    shown = lines(records)
    assert [line for line in shown if line.startswith("Data: ")] == [
        "Data: image 0 is odd.",
        "Data: image 1 is odd.",
        "Data: 7 more notes in the report.",
    ]
