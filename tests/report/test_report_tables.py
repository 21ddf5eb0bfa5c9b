"""The tables' cells: what each says for a known set of records."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_onnxdet.report.layout import Notes, Table, spans, spread
from pytest_onnxdet.report.records import in_order, worst
from pytest_onnxdet.report.summary import summarize
from pytest_onnxdet.report.terminal import summary_lines, table_lines

ENVIRONMENT = {"versions": {"python": "3.11"}, "devices": []}


def cells(table: Table) -> dict[str, list[str]]:
    """Each row's texts with its references, by the row's key."""
    return {
        " ".join(c.text for c in row[: table.keys]): [
            f"{c.text} {c.references}".strip() for c in row[table.keys :]
        ]
        for row in table.rows
    }


def table(records, title):
    return next(t for t in summarize(records, ENVIRONMENT).tables if t.title.startswith(title))


def text(records, width=100):
    return "\n".join(line for line, _ in summary_lines(records, ENVIRONMENT, width))


def test_support_has_an_outcome_for_each_check_shape_and_batch(record):
    records = [
        record(check=check, shape=shape, batch=batch)
        for check in ("accuracy", "parity", "export")
        for shape in ("dynamic", "static")
        for batch in (1, 2)
    ]
    records[0] = dataclasses.replace(records[0], outcome="failed", reason="AP fell")
    del records[-1]  # export, static, batch 2
    shown = table(records, "Support: onnxruntime on cpu, fp32")
    assert shown.columns == ("model", "static b1", "static b2", "dynamic b1", "dynamic b2")
    model, static1, static2, dynamic1, _ = shown.rows[0]
    assert (model.text, model.references) == ("retinanet", "[1]")
    assert static1.marks == (("export", "passed"), ("parity", "passed"), ("accuracy", "passed"))
    assert static2.marks[0] == ("export", "not run")
    assert dynamic1.marks[2] == ("accuracy", "failed")
    assert dynamic1.state == "failed"
    assert "In each cell: export, parity, accuracy." in shown.remarks
    row = next(line for line, _ in table_lines(shown, 100) if line.startswith("retinanet"))
    assert " ".join(row.split()) == "retinanet [1] ok ok ok - ok ok ok ok FAIL ok ok ok"


def test_a_case_checked_twice_shows_the_worse_outcome(record):
    shown = table([record(), record(outcome="failed", reason="x")], "Support")
    assert shown.rows[0][1].marks == (("parity", "failed"),)
    assert worst(["passed", "skipped"]) == "skipped"


def test_results_show_ap_times_100_with_one_decimal_and_the_difference(record, ap):
    records = [
        record("mask_rcnn", "accuracy", metrics=ap(0.61149, -0.0004, segm=0.5)),
        record("mask_rcnn", "accuracy", backend="tensorrt", metrics=ap(0.6122, 0.00061, segm=0.5)),
    ]
    shown = table(records, "Results")
    assert shown.columns == ("model", "metric", "PyTorch", "ONNX Runtime", "TensorRT")
    assert cells(shown) == {
        "mask_rcnn box AP": ["61.2", "61.1 (-0.04)", "61.2 (+0.06)"],
        "mask_rcnn mask AP": ["50.0", "50.0 (+0.00)", "50.0 (+0.00)"],
    }


def test_full_size_rows_have_what_is_documented_beside_them(record, ap):
    full = {"profile": "full"}
    records = [
        record("mask_rcnn", "accuracy", metrics=ap(0.382, segm=0.347), **full),
        record("detr", "accuracy", metrics=ap(0.401), backend="tensorrt", **full),
        record("our_own", "accuracy", metrics=ap(0.5), **full),
        record("fcos", "accuracy", metrics=ap(0.3), backend="onnxruntime[tensorrt-lowering]"),
    ]
    result = table(records, "Results")
    assert result.columns == (
        *("model", "metric", "PyTorch", "PyTorch, documented"),
        *("ONNX Runtime", "ONNX Runtime, documented", "TensorRT", "TensorRT, documented"),
        "ONNX Runtime [tensorrt-lowering]",
    )
    shown = cells(result)
    assert shown["mask_rcnn (full) box AP"] == [
        *("38.2", "38.2", "38.2 (+0.00)", "38.1", "not run", "37.7", "not run")
    ]
    assert shown["mask_rcnn (full) mask AP"][:5] == [
        "34.7",
        "34.7",
        "34.7 (+0.00)",
        "33.7",
        "not run",
    ]
    assert shown["detr (full) box AP"][1:6] == ["40.1", "not run", "40.1", "40.1 (+0.00)", "none"]
    assert shown["our_own (full) box AP"][1:4:2] == ["none", "none"]
    assert shown["fcos (mini) box AP"][1:6:2] == ["", "", ""]
    assert any("pytorch2onnx.md" in r and "older checkpoints" in r for r in result.remarks)


@pytest.mark.parametrize("profile", ["mini", "structure"])
def test_other_rows_have_nothing_documented(record, ap, profile):
    shown = table([record("detr", "accuracy", metrics=ap(0.4), profile=profile)], "Results")
    assert not any("documented" in column for column in shown.columns)


def test_of_several_cases_the_largest_difference_is_shown(record, ap):
    records = [
        record(check="accuracy", batch=1, metrics=ap(0.612)),
        record(check="accuracy", batch=2, metrics=ap(0.580, -0.032)),
        record(check="accuracy", batch=4, outcome="skipped", reason="out of memory"),
    ]
    assert cells(table(records, "Results"))["retinanet box AP"] == [
        "61.2",
        "58.0-61.2 (-3.20) 2 of 3 run [1]",
        "not run",
    ]


def test_a_tiny_negative_difference_is_not_minus_zero(record, ap):
    shown = table([record(check="accuracy", metrics=ap(0.612, -1e-9))], "Results")
    assert cells(shown)["retinanet box AP"][1] == "61.2 (+0.00)"


def test_what_did_not_run_says_so_and_what_failed_says_why(record, ap):
    records = [
        record("detr", "accuracy", "failed", "export stage: no such operator"),
        record("detr", "accuracy", "skipped", "no GPU", backend="tensorrt", device="cuda"),
        record("fcos", "accuracy", metrics=ap(0.5)),
        record("ssd", "parity"),
    ]
    assert cells(table(records, "Results")) == {
        "detr box AP": ["not run", "FAIL [1]", "not run [2]"],
        "fcos box AP": ["50.0", "50.0 (+0.00)", "not run"],
        "ssd box AP": ["not run", "not run", "not run"],
    }
    shown = text(records)
    assert "[1] detr-onnxruntime-dynamic-b1 accuracy\n    export stage: no such operator" in shown
    assert "[2] Not run: 1 check (accuracy; tensorrt; detr): no GPU" in shown


def test_a_missing_figure_is_never_a_number(record):
    metrics = {"bbox_mAP_torch": float("nan"), "bbox_mAP": None}
    shown = table([record(check="accuracy", metrics=metrics)], "Results")
    assert cells(shown)["retinanet box AP"] == ["not run", "no figure", "not run"]


def test_other_backends_devices_and_precisions_are_further_columns(record, ap):
    axes = [
        {},
        {"device": "cuda"},
        {"backend": "tensorrt", "device": "cuda", "precision": "fp16"},
        {"backend": "onnxruntime[tensorrt-lowering]"},
        {"backend": "mine"},
    ]
    shown = table([record(check="accuracy", metrics=ap(0.5), **a) for a in axes], "Results")
    assert shown.columns[3:] == (
        "ONNX Runtime cpu",
        "ONNX Runtime cuda",
        "TensorRT fp16",
        "mine",
        "ONNX Runtime [tensorrt-lowering]",
    )


def test_a_backend_that_was_only_skipped_is_one_line(record):
    reason = "tensorrt is not installed"
    records = [
        record(model, check, "skipped", reason, backend="tensorrt", batch=batch)
        for model in ("a", "b", "c", "d")
        for check in ("export", "parity", "accuracy")
        for batch in (1, 2)
    ]
    result = table([record(), *records], "Support: tensorrt")
    assert not result.rows
    assert result.remarks == ("Not run: 24 checks [1].",)
    shown = text([record(), *records])
    assert shown.count(reason) == shown.count("ensor") // 2 == 1
    said = f"[1] Not run: 24 checks (export, parity, accuracy; tensorrt; 4 models): {reason}"
    assert said in shown.splitlines()


def test_structure_checks_are_labelled_in_every_table(record, ap, timing):
    metrics = {
        "accuracy": ap(0.1),
        "latency": timing(5, 10),
        "build": {"seconds": 3, "engine_bytes": 2_000_000},
        "parity": {"max_box_px": 0.001},
    }
    records = [
        record("detr", check, profile="structure", metrics=metrics.get(check, {}))
        for check in ("export", "build", "parity", "accuracy", "latency")
    ]
    tables = summarize([*records, record("detr")], ENVIRONMENT).tables
    assert len(tables) >= 6
    for shown in tables:
        assert any(row[0].text == "detr (structure)" for row in shown.rows), shown.title
        assert any("random weights" in remark for remark in shown.remarks), shown.title
    support = [row[0].text for row in tables[0].rows]
    assert support == ["detr", "detr (structure)"]
    failed = dataclasses.replace(records[2], outcome="failed", reason="x")
    assert "detr-onnxruntime-dynamic-b1 (structure) parity" in text([failed])


def test_latency_stands_side_by_side(record, timing):
    records = [
        record(check="latency", metrics=timing(10, 20, iqr=0.5)),
        record(check="latency", backend="tensorrt", metrics=timing(4, 20, iqr=0.1)),
        record("ssd", check="latency", outcome="skipped", reason="under xdist"),
    ]
    shown = table(records, "Latency")
    assert cells(shown) == {
        "retinanet dynamic b1": ["20.00", "10.00 (x2.00)", "4.00 (x5.00)"],
        "ssd dynamic b1": ["not run", "not run [1]", "not run"],
    }
    assert any("up to 5.0% of the median (retinanet-onnxruntime" in r for r in shown.remarks)
    detail = table(records, "Latency, case by case")
    assert detail.detail
    assert [c.text for c in detail.rows[0][-2:]] == ["5.0%", "100"]


def test_no_latency_no_table(record):
    assert not any("Latency" in t.title for t in summarize([record()], {}).tables)


def test_engines_show_seconds_and_bytes(record):
    built = {"seconds": 31.24, "engine_bytes": 8_123_456}
    records = [
        record(check="build", backend="tensorrt", metrics=built),
        record("ssd", "build", "failed", "TopK of 4000", backend="tensorrt"),
    ]
    shown = table(records, "Engines")
    assert cells(shown) == {
        "retinanet dynamic b1": ["31.2 s 8.1 MB"],
        "ssd dynamic b1": ["FAIL [1]"],
    }
    assert shown.remarks == ("1 of 2 engines built.",)


def test_a_dynamic_engine_is_counted_once_for_all_batch_sizes(record):
    records = [
        record(model, "build", backend="tensorrt", shape=shape, batch=batch, metrics={"seconds": 1})
        for model in ("retinanet", "ssd")
        for shape in ("static", "dynamic")
        for batch in (1, 2)
    ]
    counted = "6 of 6 engines built; a dynamic one serves every batch size."
    assert table(records, "Engines").remarks == (counted,)
    records[3] = dataclasses.replace(records[3], outcome="failed", reason="TopK")
    assert table(records, "Engines").remarks[0].startswith("5 of 6 engines built")


@pytest.mark.parametrize("width", [80, 100, 120])
def test_terminal_lines_are_ascii_and_fit(record, ap, timing, width):
    backends = ["onnxruntime", "tensorrt", "onnxruntime[tensorrt-lowering]", "other_backend"]
    metrics = {"accuracy": ap(0.6, -0.001, segm=0.5), "latency": timing(3, 4)}
    outcomes = {"m" * 60: "passed", "cascade_mask_rcnn": "failed", "a": "error"}
    records = [
        record(model, check, outcome, "why " * 80, metrics.get(check), backend=b, batch=n, shape=s)
        for model, outcome in outcomes.items()
        for check in ("export", "parity", "accuracy", "latency")
        for b in backends
        for n in (1, 2, 4)
        for s in ("static", "dynamic")
    ]
    for line, _ in summary_lines(records, ENVIRONMENT, width):
        assert len(line) <= width, line
        assert line.isascii(), line


def test_failed_lines_are_red_and_passed_ones_green(record):
    records = [record("bad", outcome="failed", reason="x"), record("good")]
    markup = dict(summary_lines(records, ENVIRONMENT))
    assert markup["2 checks of 2 cases: 1 passed, 1 failed."] == {"red": True, "bold": True}
    good = dict(summary_lines(records[1:], ENVIRONMENT))
    rows = {line.split()[0]: mark for line, mark in (markup | good).items() if line}
    assert rows["bad"] == {"red": True}
    assert rows["good"] == {"green": True}


def test_long_reasons_are_cut_and_control_characters_removed(record):
    reason = "\x1b[31mfirst\x1b[0m\x07\n\n" + "\n".join(f"line {i}" for i in range(50))
    shown = text([record(outcome="failed", reason=reason)])
    assert "    first" in shown
    assert "\x1b" not in shown and "\x07" not in shown
    assert "... 48 more lines in report.json" in shown
    assert "line 40" not in shown


def test_nothing_verified_is_said(record):
    (line, markup), *_ = summary_lines([], ENVIRONMENT)
    assert line == "Nothing was verified: no check ran."
    assert markup["red"]
    skipped = summarize([record(outcome="skipped", reason="r")], ENVIRONMENT)
    assert skipped.verdict.startswith("Nothing was verified: no check passed.")
    assert skipped.state == "skipped"
    only_export = summarize([record(check="export")], ENVIRONMENT)
    assert any("No detection was compared" in remark for remark in only_export.remarks)


def test_the_furthest_detection_is_named(record):
    records = [
        record("a", metrics={"max_box_px": 0.001, "max_score": 3e-5}),
        record("b", metrics={"max_box_px": 0.004, "max_score": 1e-6}),
    ]
    assert (
        "Furthest from PyTorch: box 0.004 px (b-onnxruntime-dynamic-b1), "
        "score 3e-05 (a-onnxruntime-dynamic-b1)."
    ) in summarize(records, ENVIRONMENT).remarks


def test_ties_are_told_and_have_columns(record):
    figures = {"images": 64, "tied_images": 3, "tied_detections": 7, "min_mask_iou": 0.99951}
    records = [
        record("mask_rcnn", metrics=figures),
        record("mask_rcnn", batch=2, metrics=figures | {"tied_images": 1, "tied_detections": 1}),
        record("ssd", metrics={"tied_images": 0, "tied_detections": 0}),
        record("fcos"),
    ]
    sentence = (
        "Ties: 4 images (8 detections) in 2 cases accepted with a proof that only floats tie; most "
        "in mask_rcnn-onnxruntime-dynamic-b1."
    )
    assert sentence in summarize(records, ENVIRONMENT).remarks
    assert "Ties: 4 images (8 detections)" in text(records)
    result = table(records, "Parity, case by case")
    start = result.columns.index("mask IoU")
    assert result.columns[start : start + 3] == ("mask IoU", "tied images", "tied detections")
    shown = [[cell.text for cell in row[start : start + 3]] for row in result.rows]
    assert shown == [["", "", ""], ["0.9995", "3", "7"], ["0.9995", "1", "1"], ["", "0", "0"]]
    assert not any("Ties" in remark for remark in summarize(records[2:], ENVIRONMENT).remarks)


def test_limits_that_no_image_reached_are_told(record):
    records = [
        record("ssd", metrics={"cuts_reached": {"nms_pre": 0, "max_per_img": 0}}),
        record("ssd", batch=2, metrics={"cuts_reached": {"nms_pre": 0, "max_per_img": 1}}),
        record("fcos", metrics={"cuts_reached": {"nms_pre": 0, "max_per_img": 0}}),
        record("detr"),
    ]
    sentence = (
        "No image reached these limits, so nothing shows that they hold: nms_pre (fcos, ssd); "
        "max_per_img (fcos)."
    )
    assert sentence in summarize(records, ENVIRONMENT).remarks
    reached = [record("ssd", metrics={"cuts_reached": {"nms_pre": 1, "max_per_img": 1}})]
    assert not any("limits" in remark for remark in summarize(reached, ENVIRONMENT).remarks)


def test_failures_are_numbered_before_what_was_skipped(record):
    notes = Notes(
        [
            record("a", outcome="skipped", reason="s"),
            record("b", outcome="xfailed", reason="k"),
            record("c", outcome="error", reason="e"),
            record("d", outcome="failed", reason=""),
        ]
    )
    every = notes.with_outcome("error", "failed", "xfailed", "skipped")
    assert [note.reason for note in every] == ["e", "no reason was given", "k", "s"]
    assert [note.number for note in every] == [1, 2, 3, 4]


def test_order_does_not_depend_on_who_came_first(record):
    records = [record(m, c, batch=b) for m in "ab" for c in ("export", "accuracy") for b in (1, 2)]
    assert in_order(reversed(records)) == in_order(records)


def test_spans_and_spreads():
    assert spans([3, 1, 2, 7]) == "1-3,7"
    assert spread([61.14, 61.11], ".1f") == "61.1"
    assert spread([61.14, 61.16], ".1f") == "61.1-61.2"


def test_what_is_odd_about_data_is_a_remark_once(record):
    notes = {"data_notes": ["a.json: no area in annotation 3: taken from the box"]}
    summary = summarize([record("ssd", metrics=notes), record("fcos", metrics=notes)], ENVIRONMENT)
    said = [remark for remark in summary.remarks if remark.startswith("Data: ")]
    assert said == ["Data: a.json: no area in annotation 3: taken from the box."]
    assert not any("Data: " in remark for remark in summarize([record("ssd")], ENVIRONMENT).remarks)


def test_documented_detectors_come_before_others(record):
    models = ("atss", "yolov3", "detr", "yolox")
    shuffled = [record(model=model) for model in models]
    assert [r.model for r in in_order(shuffled)] == ["detr", "yolov3", "atss", "yolox"]
