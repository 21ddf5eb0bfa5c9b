"""report.json, report.md and report.html: round trip, escaping, and files that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from pytest_onnxdet.report import ReportError, environment, read_report, write_report
from pytest_onnxdet.report.machine import describe
from pytest_onnxdet.report.markdown import escape

NASTY = "a|b <script>alert(1)</script> & *c* `d` [e](f) _g_ {{ 7 * 7 }}"


class Checker(HTMLParser):
    """Collects text, tags and ids, and insists that every tag is closed in order."""

    void = ("meta", "br", "link", "img", "input")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def written(tmp_path, record, ap, timing):
    """A report with every kind of record; returns its folder."""
    records = [
        record("mask_rcnn", "accuracy", metrics=ap(0.61, -0.001, segm=0.5)),
        record("mask_rcnn", "latency", metrics=timing(2, 3)),
        record("mask_rcnn", "build", metrics={"seconds": 3, "engine_bytes": 4}),
        record(NASTY, "parity", "failed", f"{NASTY}\n```\n</pre></body>\nend"),
        record("detr", "accuracy", "skipped", "no GPU", backend="tensorrt"),
        record("ssd", "parity", "xfailed", "issue 12"),
        record("fcos", "parity", "error", "it broke"),
    ]
    write_report(records, environment(), tmp_path / "deep" / "report")
    return tmp_path / "deep" / "report"


def test_what_is_written_can_be_read(tmp_path, record):
    records = [
        record("b", metrics={"max_box_px": np.float32(0.5), "images": np.int64(64)}),
        record("a", "export", metrics={"seconds": float("nan"), "domains": ("",), "cached": True}),
        record("a", "parity", "failed", "| über <b>"),
    ]
    paths = write_report(records, {"versions": {"torch": "2"}}, tmp_path)
    assert [p.name for p in paths] == ["report.json", "report.md", "report.html", "metrics.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    data = json.loads(paths[0].read_text(encoding="utf-8"))
    assert data["schema"] == 1
    assert set(data["cases"][0]) == {
        *("id", "model", "profile", "backend", "device", "shape", "batch", "precision"),
        *("check", "outcome", "reason", "metrics"),
    }
    env, back = read_report(paths[0])
    assert env == {"versions": {"torch": "2"}}
    assert [(r.model, r.check) for r in back] == [("a", "export"), ("a", "parity"), ("b", "parity")]
    assert back[0].metrics == {"seconds": None, "domains": [""], "cached": True}
    assert back[2].metrics == {"max_box_px": 0.5, "images": 64}
    assert read_report(tmp_path) == (env, back)


def test_a_metric_that_json_cannot_hold_is_named(tmp_path, record):
    with pytest.raises(TypeError, match=r"metric 'worst\.box' is a object"):
        write_report([record(metrics={"worst": {"box": object()}})], {}, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no report"),
        ("", "is not a report, or is cut short"),
        ('{"schema": 1, "cases": [', "is not a report, or is cut short"),
        ("[]", "has no 'schema'"),
        ("{}", "has no 'schema'"),
        ('{"schema": 2, "cases": []}', "has schema 2, this version reads 1"),
        ('{"schema": 1}', "'environment' or 'cases' is missing"),
        ('{"schema": 1, "cases": [7]}', "case 0: a case is int"),
        ('{"schema": 1, "cases": [{"id": "x"}]}', "case 0: a case has no 'model'"),
        ("\x00\x01", "is not a report"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path, content, message):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ReportError, match=message) as caught:
        read_report(path)
    assert str(path) in str(caught.value)
    assert "--onnxdet-report" in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ReportError, match="is not a report"):
        read_report(path)


@pytest.mark.parametrize(
    ("name", "value"), [("batch", "2"), ("outcome", "great"), ("metrics", []), ("model", None)]
)
def test_a_case_with_a_wrong_field_is_refused(tmp_path, record, name, value):
    case = {**record().to_json(), name: value}
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"schema": 1, "environment": {}, "cases": [case]}))
    with pytest.raises(ReportError, match=name):
        read_report(path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, record):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"cannot write the report into .*file"):
        write_report([record()], {}, tmp_path / "file" / "report")


def test_a_failed_write_keeps_the_old_report(tmp_path, record, monkeypatch):
    write_report([record()], {}, tmp_path)
    before = (tmp_path / "report.json").read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ReportError, match="disk full"):
        write_report([record(), record("b")], {}, tmp_path)
    assert (tmp_path / "report.json").read_text() == before
    assert not list(tmp_path.glob(".*"))


def test_markdown_tables_keep_their_columns(written):
    lines = (written / "report.md").read_text(encoding="utf-8").splitlines()
    for position, line in enumerate(lines):
        if line.startswith("| ---") or line.startswith("| --:"):
            count = line.count("|")
            row = position - 1
            while row < len(lines) and lines[row].startswith("|"):
                assert lines[row].replace(r"\|", "").count("|") == count, lines[row]
                row += 1


def test_markdown_escapes_and_fences(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    assert "a\\|b &lt;script&gt;" in text
    assert "mask_rcnn" in text, "a name's underscore is left alone"
    assert "````text\n" + NASTY + "\n```\n</pre></body>\nend\n````" in text
    assert "<script>" not in text.split("````")[0] + text.split("````")[2]
    assert escape("_g_ a_b") == r"\_g\_ a_b"
    assert "✓" in text and "✗ FAIL" in text


def test_html_is_well_formed_self_contained_and_escaped(written):
    source = (written / "report.html").read_text(encoding="utf-8")
    page = Checker(source)
    names = [tag for tag, _ in page.tags]
    assert "script" not in names
    assert not any("src" in attributes for _, attributes in page.tags)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert links and all(link.removeprefix("#") in ids for link in links)
    assert len(ids) == len(set(ids))
    assert NASTY in page.text
    assert "49" not in page.text.split("Figures")[0].split("Checks by outcome")[-1]


def test_html_is_accessible(written):
    page = Checker((written / "report.html").read_text(encoding="utf-8"))
    assert ("html", {"lang": "en"}) in page.tags
    assert all(a.get("scope") in ("row", "col") for tag, a in page.tags if tag == "th")
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "caption" for tag, _ in page.tags) > 0
    assert "parity failed." in page.text, "a sign is also said in words"
    source = (written / "report.html").read_text(encoding="utf-8")
    assert "color-scheme: light dark" in source
    assert "prefers-color-scheme: dark" in source


def test_html_lists_checks_by_outcome(written):
    page = Checker((written / "report.html").read_text(encoding="utf-8"))
    for outcome, count in {"passed": 3, "failed": 1, "skipped": 1, "xfailed": 1}.items():
        assert f"{outcome} ({count})" in page.text
    opened = [a for tag, a in page.tags if tag == "details" and "open" in a]
    assert len(opened) == 2, "failed and error"


def test_an_empty_report_says_that_nothing_was_verified(tmp_path):
    for path in write_report([], {}, tmp_path)[1:3]:
        assert "Nothing was verified" in path.read_text(encoding="utf-8")
    assert read_report(tmp_path) == ({}, [])


def test_environment_has_versions_and_no_names():
    result = environment()
    assert result["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert result["versions"]["pytest"] == pytest.__version__
    assert result["cpu"]["count"] >= 1
    assert isinstance(result["devices"], list)
    text = json.dumps(result)
    import platform
    from pathlib import Path

    assert str(Path.home()) not in text.replace('"/"', "")
    assert platform.node() not in text
    assert "python 3" in describe(result)


def test_environment_describes_what_another_version_wrote():
    assert describe({}) == ""
    assert describe({"devices": ["NVIDIA X"], "cpu": {}}) == "? x unknown CPU; NVIDIA X"


def test_importing_and_summing_up_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from pytest_onnxdet.report import environment, summary_lines\n"
        "summary_lines([], environment())\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'jinja2', 'mmcv'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
