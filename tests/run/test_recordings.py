"""PyTorch's detections on disk: read back as they were, and never half."""

from pathlib import Path

import numpy as np
import pytest

from pytest_onnxdet.bundle import format as file_format
from pytest_onnxdet.bundle.format import packed, read, write
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.run.recordings import KeptResults


def detections(count: int, size: tuple[int, int] | None = None, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    masks = probs = None
    if size is not None:
        masks = rng.random((count, *size)) > 0.5
        probs = rng.random((count, 7, 7), dtype=np.float32)
    return Detections(
        rng.random((count, 4), dtype=np.float32),
        rng.random(count, dtype=np.float32),
        rng.integers(0, 3, count),
        masks,
        probs,
    )


def same(one: Detections, other: Detections) -> bool:
    pairs = [
        (getattr(one, name), getattr(other, name))
        for name in ("boxes", "scores", "labels", "mask_probs")
    ]
    masks = [[] if found.masks is None else list(found.masks) for found in (one, other)]
    pairs += zip(*masks, strict=True)
    return all(
        (a is None and b is None)
        or (a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b))
        for a, b in pairs
    )


@pytest.mark.parametrize(
    "found",
    [
        [],
        [detections(0)],
        [detections(3), detections(0), detections(1)],
        # Sizes whose pixels do not fill whole bytes, and an image without a detection.
        [detections(3, (5, 7)), detections(0, (1, 1)), detections(2, (11, 13), seed=1)],
    ],
)
def test_reads_back_what_was_written(tmp_path: Path, found: list[Detections]) -> None:
    write(tmp_path / "kept.npz", found)

    again = read(tmp_path / "kept.npz")

    assert len(again) == len(found)
    assert all(same(a, b) for a, b in zip(again, found, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npz"]


def test_probabilities_of_the_first_images_only(tmp_path: Path) -> None:
    """Of a large data set only some images' probabilities are kept; all their masks are."""
    every = [detections(2, (5, 7), seed=seed) for seed in range(3)]
    found = [one.packed(number < 2) for number, one in enumerate(every)]
    write(tmp_path / "kept.npz", found)

    again = read(tmp_path / "kept.npz")

    assert [one.mask_probs is not None for one in again] == [True, True, False]
    assert all(same(a, b) for a, b in zip(again, found, strict=True))
    assert all(
        np.array_equal(a, b)
        for one, whole in zip(again, every, strict=True)
        for a, b in zip(one.masks, whole.masks, strict=True)
    )


@pytest.mark.parametrize(
    ("allowed", "least", "kept"),
    [
        (3 * 392, 0, [True, True, False, False, False]),  # 2 and 1 masks fill it, the next do not
        (0, 2, [True, True, False, False, False]),
        (10**6, 0, [True] * 5),
        (0, 0, [False] * 5),
    ],
)
def test_probabilities_of_as_many_images_as_fit(
    monkeypatch: pytest.MonkeyPatch, allowed: int, least: int, kept: list[bool]
) -> None:
    """What is kept are the first images': a file of results stores no other."""
    monkeypatch.setattr(file_format, "PROBABILITY_BYTES", allowed)
    monkeypatch.setattr(file_format, "PROBABILITY_LEAST", least)
    every = [detections(count, (5, 7)) for count in (2, 1, 4, 0, 1)]

    found = packed(iter(every))

    assert [one.mask_probs is not None for one in found] == kept
    assert [len(one.masks) for one in found] == [2, 1, 4, 0, 1]  # all pasted masks stay


def test_full_size_probabilities_stay_within_a_budget() -> None:
    """PointRend's, of which 100 images would be 2 GB for each set of detections."""
    image = 100 * 224 * 224 * 4
    assert 4 * image < file_format.PROBABILITY_BYTES < 20 * image
    assert file_format.PROBABILITY_BYTES > file_format.PROBABILITY_IMAGES * 100 * 28 * 28 * 4


def test_of_small_masks_no_more_images_probabilities_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else 5,000 images with few masks would hold 62 MB where 500 hold 6."""
    monkeypatch.setattr(file_format, "PROBABILITY_IMAGES", 2)
    monkeypatch.setattr(file_format, "PROBABILITY_LEAST", 1)
    found = packed(detections(1, (5, 7)) for _ in range(4))
    assert [one.mask_probs is not None for one in found] == [True, True, False, False]


def test_masks_that_do_not_belong_to_the_boxes_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "kept.npz", [detections(2, (5, 7))])
    with np.load(tmp_path / "kept.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(tmp_path / "kept.npz", **(arrays | {"runs": arrays["runs"][:-1]}))
    with pytest.raises(ValueError, match="masks"):
        read(tmp_path / "kept.npz")


def test_computes_once(tmp_path: Path) -> None:
    kept, calls = KeptResults(tmp_path), []

    def compute() -> list[Detections]:
        calls.append(1)
        return [detections(2)]

    first, second = (kept.get({"model": "a"}, compute) for _ in range(2))
    other = kept.get({"model": "b"}, compute)

    assert len(calls) == 2
    assert same(first[0], second[0])
    assert len(other) == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_file_is_computed_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    kept = KeptResults(tmp_path)
    kept.get({}, lambda: [detections(50)])
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

    with pytest.warns(UserWarning, match=r"are damaged .*PyTorch is run again"):
        again = kept.get({}, lambda: [detections(50)])

    assert same(again[0], detections(50))
    assert same(kept.get({}, lambda: [])[0], detections(50))


def test_arrays_that_do_not_belong_together_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "kept.npz"
    np.savez(
        path, counts=[2], boxes=np.zeros((1, 4)), scores=np.zeros(2), labels=np.zeros(2)
    )  # fmt: skip

    with pytest.raises(ValueError, match="do not belong together"):
        read(path)


def test_a_failing_reference_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> list[Detections]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        KeptResults(tmp_path).get({}, fail)

    assert not list(tmp_path.glob("*.npz*"))
