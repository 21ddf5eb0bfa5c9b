"""The tool that repeats clean runs: what it counts, keeps and fails on. A fake judge runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from false_alarms import HALF, SETTINGS, SHARES, Setting, main, remarks, shares, table

from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.models.spec import Tolerance
from pytest_onnxdet.verify.judge import Sides, judge


class Judge:
    """Stands for a model's run; fails, or raises, where it is told to."""

    def __init__(self, bad: tuple[str, str] | None = None, broken: bool = False) -> None:
        self.bad, self.broken, self.asked = bad, broken, []
        self.sizes: set[int | None] = set()

    def __call__(
        self,
        model: str,
        setting: Setting,
        images: int,
        cache: Path,
        full_size: int | None = None,
    ) -> dict[str, Any]:
        self.asked.append((model, setting.name))
        self.sizes.add(full_size)
        wrong = (model, setting.name) == self.bad
        if wrong and self.broken:
            raise RuntimeError("no session")
        used = {"raw": 0.6 if model == "ssd" else 0.2, "box": 0.1, "score": 0.05, "mask": None}
        return {"ok": not wrong, "faults": ["detections: 1 differs"] * wrong, "shares": used}


def call(tmp_path: Path, run: Judge, *more: str) -> int:
    return main(
        ["--log", str(tmp_path / "log"), "--models", "ssd,fcos", "--settings", "as*,arena*", *more],
        run,
    )


def test_all_runs_and_what_they_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Judge()
    assert call(tmp_path, run) == 0
    assert run.asked == [(m, s) for s in ("as it is", "arena off") for m in ("ssd", "fcos")]
    output = capsys.readouterr().out
    assert "| as it is | 2 | 0 | 0.60 | 0.10 | 0.05 |  |" in output
    assert "| all | 4 | 0 | 0.60 |" in output
    assert output.count("above half ssd") == 2 and "above half fcos" not in output


@pytest.mark.parametrize("broken", [False, True])
def test_one_failure_is_the_exit_status_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: bool
) -> None:
    assert call(tmp_path, Judge(("fcos", "arena off"), broken)) == 1
    output = capsys.readouterr().out
    assert "| arena off | 2 | 1 |" in output and "| as it is | 2 | 0 |" in output
    why = "RuntimeError: no session" if broken else "detections: 1 differs"
    assert f"FAILED fcos, arena off: {why}" in output


def test_what_the_log_has_is_not_run_again_and_still_counts(tmp_path: Path) -> None:
    assert call(tmp_path, Judge(("ssd", "as it is"))) == 1
    log = tmp_path / "log"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:3]))
    again = Judge()
    assert call(tmp_path, again) == 1  # the old failure
    assert again.asked == [("fcos", "arena off")]
    assert len(log.read_text().splitlines()) == 4
    other = Judge()
    call(tmp_path, other, "--images", "3")  # other images are other runs
    assert len(other.asked) == 4
    assert {json.loads(line)["images"] for line in log.read_text().splitlines()} == {3, 8}


def test_full_size_runs_are_runs_of_their_own(tmp_path: Path) -> None:
    call(tmp_path, Judge())
    large = Judge()
    call(tmp_path, large, "--full-size", "320", "--settings", "*")
    assert large.sizes == {320} and len(large.asked) == 2 * len(
        [s for s in SETTINGS if s.order is None]
    )
    call(tmp_path, again := Judge(), "--full-size", "320")
    assert not again.asked


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    for more in (("--models", "no_net"), ("--settings", "nothing")):
        with pytest.raises(SystemExit):
            main(["--log", str(tmp_path / "log"), *more], Judge())


def test_the_settings_vary_all_that_may_vary() -> None:
    assert len({s.name for s in SETTINGS}) == len(SETTINGS) >= 25
    varied = {name: {getattr(s, name) for s in SETTINGS} for name in Setting.__dataclass_fields__}
    assert varied["threads"] == {1, 2, 4} and varied["batch"] == {1, 2, 3, 5}
    assert varied["level"] == {"disable_all", "basic", "all"}
    assert all(varied[name] == {False, True} for name in ("arena", "onednn", "fresh"))
    assert varied["shape"] == {"static", "dynamic"} and len(varied["order"]) > 5


def test_shares_are_parts_of_the_allowances() -> None:
    def one(shift: float, score: float, masks: float) -> Detections:
        return Detections(
            np.array([[0, 0, 200, 100 + shift]], np.float32),
            np.array([0.5 + score], np.float32),
            np.zeros(1, np.int64),
            mask_probs=np.full((1, 4, 4), 0.25 + masks, np.float32),
        )

    allowed = Tolerance(box_px=0.01, box_rel=2e-4, score=1e-4, mask_prob=1e-3)
    both = Sides([one(0, 0, 0)], [one(0.01, 5e-5, 1e-4)])
    used = shares(judge(both, allowed), both, allowed)
    # 2e-4 of 200 px is more than 0.01 px.
    assert used.pop("raw") is None  # not compared
    assert used == pytest.approx({"box": 0.25, "score": 0.5, "mask": 0.1}, rel=0.01)
    verdict = SimpleNamespace(metrics={}, tied=[SimpleNamespace(index=0, outcome="tied")])
    assert shares(verdict, both, allowed) == dict.fromkeys(SHARES)


def test_a_tie_within_the_allowance_is_no_rounding() -> None:
    def one(value: float) -> Detections:
        masks = np.full((1, 4, 4), value, np.float32)
        box, label = np.array([[0, 0, 9, 9]], np.float32), np.zeros(1, np.int64)
        return Detections(box, np.array([0.5], np.float32), label, mask_probs=masks)

    allowed = Tolerance(mask_prob=1e-3)
    both = Sides([one(0.25)], [one(0.2509)])
    asked = []

    def alternatives(index: int, candidate: Detections, singly: bool) -> list[Detections]:
        asked.append(index)
        return [one(0.3), one(0.2508)]

    verdict = judge(both, allowed)
    assert shares(verdict, both, allowed)["mask"] == pytest.approx(0.9, rel=0.01)
    assert shares(verdict, both, allowed, alternatives)["mask"] == pytest.approx(0.1, rel=0.01)
    small = Sides([one(0.25)], [one(0.2501)])
    assert shares(judge(small, allowed), small, allowed, alternatives)["mask"] < HALF
    assert asked == [0]


def test_an_empty_log_makes_an_empty_table() -> None:
    assert table([])[-1] == "| all | 0 | 0 |  |  |  |  |" and remarks([]) == []
