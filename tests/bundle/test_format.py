"""A recording as a file: read back as it was, never half, and nothing pickled."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recording_samples import detections, recording, same

from pytest_onnxdet.bundle.format import FORMAT, BundleError, OtherFormat, read, write
from pytest_onnxdet.data.detections import Detections
from pytest_onnxdet.reference.noise import MapNoise, Noise


@pytest.mark.parametrize(
    "results",
    [
        [],
        [detections(0)],
        [detections(3), detections(0), detections(1)],
        # Sizes whose pixels do not fill whole bytes, and an image without a detection.
        [detections(3, (5, 7)), detections(0, (1, 1)), detections(2, (11, 13), seed=1)],
    ],
)
def test_reads_back_what_was_written(tmp_path: Path, results: list[Detections]) -> None:
    made = recording(*results, raw=2)
    if results:
        exact = [
            {n: v.astype(np.float64) + 1e-6 for n, v in outputs.items()} for outputs in made.raw
        ]
        names = [name for outputs in made.raw for name in outputs]
        maps = {name: MapNoise(1e-6, 5e-7, 1e-7) for name in names}
        noise = Noise(exact=exact, maps=maps, score=1e-6, mask_prob=None, detections=4)
        made = replace(made, noise=noise)
    write(tmp_path / "made.npz", made)

    again = read(tmp_path / "made.npz")

    assert len(again.detections) == len(results)
    assert all(same(a, b) for a, b in zip(again.detections, results, strict=True))
    for name in ("inputs", "batch", "images", "sizes", "versions", "cuts"):
        assert getattr(again, name) == getattr(made, name)
    assert (again.noise is None) == (made.noise is None)
    if made.noise is not None and again.noise is not None:
        assert replace(again.noise, exact=()) == replace(made.noise, exact=())
        for ours, theirs in zip(made.noise.exact, again.noise.exact, strict=True):
            assert ours.keys() == theirs.keys()
            # What is to be added to float32 is rounded to float32: seven digits of a rounding.
            assert all(np.allclose(ours[n], theirs[n], rtol=0, atol=1e-12) for n in ours)
    assert [list(outputs) for outputs in again.raw] == [list(outputs) for outputs in made.raw]
    for ours, theirs in zip(made.raw, again.raw, strict=True):
        for name, array in ours.items():
            assert array.dtype == theirs[name].dtype and np.array_equal(array, theirs[name])
    assert [path.name for path in tmp_path.iterdir()] == ["made.npz"]


def test_probabilities_of_the_first_images_only(tmp_path: Path) -> None:
    """Of a large data set only some images' probabilities are kept; all their masks are."""
    every = [detections(2, (5, 7), seed=seed) for seed in range(3)]
    results = [one.packed(number < 2) for number, one in enumerate(every)]
    write(tmp_path / "made.npz", recording(*results))

    again = read(tmp_path / "made.npz").detections

    assert [one.mask_probs is not None for one in again] == [True, True, False]
    assert all(same(a, b) for a, b in zip(again, results, strict=True))
    assert all(
        np.array_equal(a, b)
        for one, whole in zip(again, every, strict=True)
        for a, b in zip(one.masks, whole.masks, strict=True)
    )


def changed(path: Path, **arrays: object) -> None:
    """Puts other arrays into a file."""
    with np.load(path, allow_pickle=True) as stored:
        whole = {name: stored[name] for name in stored.files}
    np.savez(path, **(whole | arrays))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("runs", np.zeros(3, np.uint8), "masks do not belong"),
        ("boxes", np.zeros((1, 4), np.float32), "do not belong together"),
        ("counts", np.array([1]), "do not belong together"),
        ("about", np.array("{}"), "inputs"),
        ("about", np.array("no json"), "damaged"),
        ("labels", np.array([{}, {}], dtype=object), "allow_pickle=False"),
    ],
)
def test_parts_that_do_not_belong_together_are_damage(
    tmp_path: Path, name: str, array: object, message: str
) -> None:
    path = tmp_path / "made.npz"
    write(path, recording(detections(2, (5, 7))))
    changed(path, **{name: array})
    with pytest.raises(BundleError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value) and not isinstance(caught.value, OtherFormat)


def test_names_and_sizes_belong_to_the_images(tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    write(path, recording(detections(2)))
    with np.load(path) as stored:
        about = json.loads(str(stored["about"]))
    changed(path, about=np.array(json.dumps(about | {"images": ["a.png", "b.png"]})))
    with pytest.raises(BundleError, match="2 names, 1 sizes"):
        read(path)
    with pytest.raises(ValueError, match="do not belong together"):
        replace(recording(detections(1)), raw=({}, {}))


@pytest.mark.parametrize("version", [0, FORMAT + 1])
def test_another_version_of_the_format_is_refused_by_its_number(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "made.npz"
    write(path, recording(detections(2)))
    changed(path, format=np.array(version))
    with pytest.raises(OtherFormat, match=f"version {version} .* reads {FORMAT}: record it again"):
        read(path)


def test_a_file_of_before_there_were_versions_is_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    np.savez(path, counts=[0], boxes=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0))
    with pytest.raises(OtherFormat, match="version 0"):
        read(path)


def test_what_is_no_recording_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no recording"):
        read(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text.npz", "array.npy"):
        with pytest.raises(BundleError, match="is damaged"):
            read(tmp_path / name)


def test_nothing_in_a_file_is_unpickled(tmp_path: Path) -> None:
    (tmp_path / "bomb.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(BundleError, match="damaged"):
        read(tmp_path / "bomb.npz")
    path = tmp_path / "made.npz"
    write(path, recording(detections(1)))
    changed(path, **{"raw/0/cls_1": np.array([Detections], dtype=object)})
    with pytest.raises(BundleError, match="allow_pickle=False"):
        read(path)
