"""The self-test in a report: one sentence, faults by model, and what no check refused."""

from pytest_onnxdet.report.records import Record
from pytest_onnxdet.report.summary import summarize


def record(model: str, fault: str, mutant: str, outcome: str = "passed", **more: object) -> Record:
    metrics = {"operator": fault, "mutant": mutant, "place": "conv", **more}
    return Record(
        f"{model}-onnxruntime-dynamic-b3",
        model,
        "mini",
        "onnxruntime",
        "cpu",
        "dynamic",
        3,
        "fp32",
        "selftest",
        outcome,
        "why" if outcome != "passed" else "",
        metrics,
    )


RECORDS = [
    record("fcos", "weight", "caught", caught_by="raw", margin=1170.2),
    record("fcos", "ghosts", "caught", caught_by="contract", margin=None),
    record("ssd", "weight", "equivalent"),
    record("ssd", "ghosts", "SURVIVED", "failed", effect={"box_px": 1.5, "ap": 0.01}),
    record("ssd", "epsilon", "below", effect={"box_px": 0.0004, "score": 1e-6}),
    record("fcos", "epsilon", "not applicable", "skipped"),
]


def test_one_sentence_counts_the_mutants() -> None:
    summary = summarize(RECORDS, {})
    said = "Self-test: 5 mutants: 2 caught, 1 equivalent, 1 below, 1 survived."
    assert said in summary.remarks
    assert summary.state == "failed"
    assert not any("No detection was compared" in remark for remark in summary.remarks)


def test_the_table_has_faults_by_model() -> None:
    first, effects = summarize(RECORDS, {}).tables
    assert first.columns == ("fault", "fcos", "ssd")
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in first.rows}
    assert cells == {
        "weight": ["raw ×1.17e+03", "same bits"],
        "ghosts": ["contract", "SURVIVED"],
        "epsilon": ["–", "below"],
    }
    shown = [[cell.text for cell in row] for row in effects.rows]
    assert ["ghosts", "ssd", "conv", "SURVIVED", "1.5", "", "", "0.01"] in shown
    assert ["epsilon", "ssd", "conv", "below", "0.0004", "1e-06", "", ""] in shown
    assert not effects.detail and first.detail


def test_other_runs_say_nothing_of_it() -> None:
    assert not any("Self-test" in remark for remark in summarize([], {}).remarks)
