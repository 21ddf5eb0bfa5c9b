"""Functions in processes of their own."""

import os
import sys
import time

import pytest
import torch

from pytest_onnxdet.families.ops.custom import non_max_suppression
from pytest_onnxdet.run.apart import ProcessEnded, call_apart


def told(word: str) -> tuple[int, str, bool, str]:
    print("printed")
    return os.getpid(), word, "mmdet.models" in sys.modules, os.environ["OMP_NUM_THREADS"]


def dying(how: str) -> None:
    print("its last words", file=sys.stderr, flush=True)
    if how == "raises":
        raise ValueError("why")
    os.kill(os.getpid(), 9)


def test_each_call_has_a_process_with_the_imports_done(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    first, word, imported, threads = call_apart(told, "a", timeout=120)
    assert (word, imported, threads) == ("a", True, "1")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert call_apart(told, "b", timeout=120)[0] not in (first, os.getpid())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("how", "said"), [("raises", "ended with 1: ValueError: why"), ("killed", "-9: its last words")]
)
def test_a_process_that_ends_says_how(how: str, said: str) -> None:
    with pytest.raises(ProcessEnded, match=said):
        call_apart(dying, how, timeout=120)


def test_one_that_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError, match=r"took longer than 0\.2 s"):
        call_apart(time.sleep, 600, timeout=0.2)


def kept_without_dynamo() -> tuple[list[list[int]], bool]:
    boxes = torch.tensor([[[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 0.0, 30.0, 9.0]]])
    kept = non_max_suppression(boxes, torch.tensor([[[0.5, 0.6, 0.7]]]), 9, 0.5)
    return kept.tolist(), "torch._dynamo" in sys.modules


def test_an_operator_of_ours_does_not_import_what_compiles() -> None:
    """It takes as long as importing PyTorch and mmdet, in every process that detects anything."""
    assert call_apart(kept_without_dynamo, timeout=120) == ([[0, 0, 2], [0, 0, 1]], False)
