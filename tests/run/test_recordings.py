"""Recordings in the cache: made once, read back, and never half."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from recording_samples import detections, recording, same

from pytest_onnxdet.bundle.format import FORMAT
from pytest_onnxdet.reference.recording import Recording
from pytest_onnxdet.run.recordings import Recordings


def test_records_once(tmp_path: Path) -> None:
    recordings, calls = Recordings(tmp_path), []

    def make() -> Recording:
        calls.append(1)
        return recording(detections(2))

    first, second = (recordings.get({"model": "a"}, make) for _ in range(2))
    other = recordings.get({"model": "b"}, make)

    assert len(calls) == 2
    assert same(first.detections[0], second.detections[0])
    assert np.array_equal(first.raw[0]["cls_1"], second.raw[0]["cls_1"])
    assert len(other.detections) == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_file_is_computed_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    recordings = Recordings(tmp_path)
    recordings.get({}, lambda: recording(detections(50)))
    (file,) = tmp_path.glob("*.npz")
    whole = file.read_bytes()
    middle = len(whole) // 3
    file.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "flip": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "empty": b"",
            "text": b"not an archive",
        }[damage]
    )

    with pytest.warns(UserWarning, match=r"is damaged .*PyTorch is run again"):
        again = recordings.get({}, lambda: recording(detections(50)))

    assert same(again.detections[0], detections(50))
    assert same(recordings.get({}, recording).detections[0], detections(50))


def test_another_version_of_the_format_counts_as_none(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path)
    recordings.get({}, lambda: recording(detections(1)))
    (file,) = tmp_path.glob("*.npz")
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(file, **(arrays | {"format": np.array(FORMAT + 1)}))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = recordings.get({}, lambda: recording(detections(3)))

    assert len(again.detections[0]) == 3
    assert len(recordings.get({}, recording).detections[0]) == 3


def test_a_failing_reference_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Recording:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        Recordings(tmp_path).get({}, fail)

    assert not list(tmp_path.glob("*.npz*"))
