"""JUnit's properties, GitHub's summary and annotations, GitLab's metrics: what each holds."""

from __future__ import annotations

import re

import pytest

from pytest_onnxdet.report import ci, markdown, write_report
from pytest_onnxdet.report.summary import summarize


def test_properties_are_flat_numbers_and_the_blame(record, ap, timing):
    parity = record(metrics={"max_box_px": 0.00123456789, "max_score": 2e-6, "max_mask": 1e-5})
    assert ci.properties(parity.to_json()) == [
        ("onnxdet.box_px", "0.00123457"),
        ("onnxdet.score", "2e-06"),
        ("onnxdet.mask", "1e-05"),
    ]
    accuracy = record(check="accuracy", metrics=ap(0.6, -0.001, segm=0.5)).to_json()
    assert ci.properties(accuracy) == [("onnxdet.ap.delta", "-0.001")]
    latency = record(check="latency", metrics=timing(4, 10)).to_json()
    assert ci.properties(latency) == [("onnxdet.ms", "4"), ("onnxdet.speedup", "2.5")]
    assert ci.properties({**record().to_json(), "blame": "export"}) == [("onnxdet.blame", "export")]


def test_annotations_are_one_a_model_and_ten_at_most(record):
    records = [
        record(f"m{i:02}", outcome="failed", reason="stage: export\n5 % off", batch=batch)
        for i in range(14)
        for batch in (1, 2)
    ]
    commands = ci.error_commands([*records, record("good")])
    assert len(commands) == 10
    assert commands[0] == (
        "::error title=onnxdet m00::2 checks failed: parity 2%0A"
        "m00-onnxruntime-dynamic-b1 parity:%0Astage: export%0A5 %25 off"
    )
    assert commands[-1] == "::error title=onnxdet::and 5 more models: m09, m10, m11, m12, m13"
    assert len(ci.error_commands(records[:20])) == 10
    assert ci.error_commands([record()]) == []


def test_an_annotation_stays_one_command(record):
    bad = record("a:b,c", outcome="error", reason="first\r\n::error::second\x1b[31m" + "x" * 5000)
    (command,) = ci.error_commands([bad])
    assert "\n" not in command and "\r" not in command and "\x1b" not in command
    assert command.startswith("::error title=onnxdet a%3Ab%2Cc::")
    assert len(command) < 1500


def test_a_summary_that_fits_is_report_md(record):
    summary = summarize([record()], {})
    assert ci.step_summary(summary, ci.SUMMARY_BYTES, "elsewhere") == markdown.render(summary)


@pytest.mark.parametrize("room", [900_000, 5_000, 200, 10])
def test_a_summary_that_does_not_fit_ends_with_a_pointer(record, room):
    records = [
        record(f"m{i}", "accuracy", "failed", f"reason {i} ✗ " * 300, batch=batch)
        for i in range(300)
        for batch in (1, 2)
    ]
    summary = summarize(records, {})
    whole = markdown.render(summary)
    assert len(whole.encode()) > 900_000
    text = ci.step_summary(summary, room, "The whole report is in out/report.md.")
    assert len(text.encode()) <= room
    if room > 100:
        assert text.endswith("\n\nThe whole report is in out/report.md.\n")
    if room > 1000:
        assert text.startswith(
            "# pytest-onnxdet report\n\n**600 checks of 600 cases: 600 failed.**"
        )
        assert text.count("```") % 2 == 0
        assert whole.startswith(text.removesuffix("\n\nThe whole report is in out/report.md.\n"))


def test_metrics_are_openmetrics_lines(record, ap, timing, tmp_path):
    records = [
        record("ssd", metrics={"max_box_px": 0.00123, "max_score": 2e-6}),
        record("ssd", batch=2, metrics={"max_box_px": 0.002}),
        record("ssd", "accuracy", metrics=ap(0.61, -0.0012)),
        record("ssd", "accuracy", batch=2, metrics=ap(0.62, 1e-9)),
        record("ssd", "latency", metrics=timing(4, 10)),
        record('o"dd\\', "parity", "failed", "x"),
    ]
    write_report(records, {}, tmp_path)
    lines = (tmp_path / "metrics.txt").read_text().splitlines()
    axes = 'profile="mini",model="ssd",backend="onnxruntime",device="cpu",precision="fp32"'
    assert {
        'onnxdet_checks{outcome="passed"} 5',
        'onnxdet_checks{outcome="failed"} 1',
        f"onnxdet_failed{{{axes}}} 0",
        f"onnxdet_box_ap{{{axes}}} 0.610",
        f"onnxdet_ap_delta{{{axes}}} -0.0012",
        f"onnxdet_box_px{{{axes}}} 0.002",
        f"onnxdet_score{{{axes}}} 2e-06",
        f"onnxdet_speedup{{{axes}}} 2.5",
    } <= set(lines)
    assert any('model="o\\"dd\\\\"' in line for line in lines)
    assert lines[-1] == "# EOF"
    sample = re.compile(r'onnxdet_\w+\{(\w+="([^"\\]|\\.)*",?)+\} -?[\d.e+-]+')
    for line in lines[:-1]:
        assert line.startswith("# TYPE onnxdet_") or sample.fullmatch(line), line
