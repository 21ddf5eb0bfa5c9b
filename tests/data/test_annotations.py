"""What a COCO json may be like, and what is said of it: without mmdet, in no time."""

import codecs
import json
import locale
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_onnxdet.data.annotations import (
    Annotations,
    check_classes,
    for_mmdet,
    read_annotations,
)
from pytest_onnxdet.data.batches import DataError

Document = dict[str, Any]
SQUARE = [[2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]]
H, W = 40, 60


def document() -> Document:
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": H, "width": W}
            for number in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1 + number % 2,
                "category_id": 7,
                "bbox": [2, 2, 10, 10],
                "area": 100,
                "iscrowd": 0,
                "segmentation": SQUARE,
            }
            for number in (1, 2, 3, 4, 5)
        ],
    }


def read(folder: Path, written: Document, **how: Any) -> Annotations:
    path = folder / "a.json"
    path.write_text(json.dumps(written))
    return read_annotations(path, **how)


def changed(where: str, number: int, **values: Any) -> Callable[[Document], None]:
    return lambda written: written[where][number].update(values)


def without(where: str, number: int, *keys: str) -> Callable[[Document], None]:
    def change(written: Document) -> None:
        for key in keys:
            del written[where][number][key]

    return change


def test_a_sound_file_is_taken_as_it_is(tmp_path: Path) -> None:
    found = read(tmp_path, document(), masks=True)
    assert found.document == document() and not found.notes and not found.mended
    with for_mmdet(found) as path:
        assert path == tmp_path / "a.json"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("annotations", 2, "id"), r"annotations\[2\] has no id"),
        (without("annotations", 2, "image_id"), "annotation 3 has no image_id"),
        (without("annotations", 2, "category_id"), "annotation 3 has no category_id"),
        (without("annotations", 2, "bbox"), "annotation 3 has no bbox"),
        (
            changed("annotations", 2, bbox=[1, 2, 3]),
            r"annotation 3: bbox is \[1, 2, 3\]: give x, y",
        ),
        (changed("annotations", 2, bbox=[1, 2, 3, float("nan")]), r"annotation 3: bbox is .*NaN"),
        (changed("annotations", 2, bbox=[1, 2, 3, float("inf")]), r"annotation 3: bbox is .*Infin"),
        (changed("annotations", 2, bbox=["1", 2, 3, 4]), 'annotation 3: bbox is .*"1"'),
        (changed("annotations", 2, bbox=list(range(90))), r"bbox is \[0, 1, .*\.\.\.: give"),
        (changed("annotations", 2, area=float("nan")), "annotation 3: area is NaN: give a number"),
        (changed("annotations", 2, area=10**400), "annotation 3: area is 1000.*: give a number"),
        (changed("annotations", 2, area=-1.0), "annotation 3: area is -1.0: give a number, 0 or m"),
        (changed("annotations", 2, area="12"), 'annotation 3: area is "12"'),
        (changed("annotations", 2, iscrowd="0"), 'annotation 3: iscrowd is "0": give 0 or 1'),
        (changed("annotations", 2, iscrowd=2), "annotation 3: iscrowd is 2: give 0 or 1"),
        (changed("annotations", 2, id=2), "annotation id 2 is there 2 times"),
        (changed("annotations", 2, id="2"), "annotation ids are both int and str"),
        (changed("annotations", 2, id=2.5), "annotation 2.5: an id of type float"),
        (changed("annotations", 2, image_id=9), "annotation 3 has the unknown image id 9"),
        (changed("annotations", 2, image_id="1"), "annotation 3 has the unknown image id 1"),
        (changed("annotations", 2, image_id=[1]), r"annotation 3 has the unknown image id \[1\]"),
        (changed("annotations", 2, category_id=0), "annotation 3 has the unknown category id 0"),
        (changed("images", 1, id=1), "image id 1 is there 2 times"),
        (changed("images", 1, id=None), r"images\[1\] has no id|image None has no id"),
        (changed("images", 1, file_name=""), "image 2: file_name is no file's name"),
        (changed("images", 1, file_name=7), "image 2: file_name is no file's name"),
        (without("images", 1, "file_name"), "image 2 has no file_name: add it"),
        (without("images", 1, "height"), "image 2 has no height: add it"),
        (changed("images", 1, width=0), "image 2: width is 0"),
        (changed("images", 1, width="60"), "image 2: width is '60'"),
        (changed("images", 1, width=10**9), "image 2: width is 1000000000"),
        (changed("images", 1, width=60.5), "image 2: width is 60.5"),
        (changed("categories", 1, id=1), "category id 1 is there 2 times"),
        (changed("categories", 1, name="cat"), "category name cat is there 2 times"),
        (changed("categories", 1, name=3), "category 7: its name is no text"),
        (without("categories", 1, "name"), "category 7 has no name"),
        (
            lambda d: [one.update(id=f"u{one['id']}") for one in d["annotations"]],
            "annotation ids are texts: give whole numbers",
        ),
        (lambda d: d["images"].clear(), "lists no images"),
        (lambda d: d.pop("categories"), "not a COCO annotation file: no categories"),
        (lambda d: d.pop("annotations"), "not a COCO annotation file: no annotations"),
        (lambda d: d.update(images={}), "not a COCO annotation file: no list of images"),
        (lambda d: d["images"].append("3.png"), r"images\[2\] is no table"),
    ],
)
def test_what_cannot_be_evaluated_is_named(
    tmp_path: Path, change: Callable[[Document], None], said: str
) -> None:
    written = document()
    change(written)
    with pytest.raises(DataError, match=rf"a\.json: .*({said})") as raised:
        read(tmp_path, written)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        (None, "is missing"),
        ([], "is empty"),
        ([[]], "has a polygon of 0 numbers"),
        ([[1, 1, 5, 5]], "has a polygon of 4 numbers"),
        ([[1, 1, 5, 5, 9, 9, 2]], "has a polygon of 7 numbers"),
        ([[1, 1], [5, 5], [9, 9]], "has a polygon of 2 numbers"),
        ([1, 1, 5, 5, 9, 9], "has a polygon in place of"),
        ([[1, 1, 5, 5, 9, float("nan")]], "has a polygon with something else than numbers"),
        ([[1, 1, 5, 5, 9, -1e5]], "has a point at -100000, far outside of its image"),
        ([[1, 1, 5, 5, 9, 10**400]], "has a polygon with something else than numbers"),
        ("box", "is a str"),
        ({"counts": [H * W]}, r"has the size None, but its image \[40, 60\]"),
        ({"size": [W, H], "counts": [H * W]}, r"has the size \[60, 40\], but its image \[40, 60\]"),
        ({"size": [H, W]}, "has no counts"),
        ({"size": [H, W], "counts": [7]}, "has counts for 7 of 2400 pixels"),
        ({"size": [H, W], "counts": [H * W + 1, -1]}, "has counts that are no run lengths"),
        ({"size": [H, W], "counts": "P"}, "has no counts"),
        ({"size": [H, W], "counts": "0"}, "has counts for 0 of 2400 pixels"),
        ({"size": [H, W], "counts": "\u00e9"}, "has no counts"),
    ],
)
def test_a_segmentation_that_is_none(tmp_path: Path, segmentation: Any, said: str) -> None:
    written = document()
    written["annotations"][2]["segmentation"] = segmentation
    assert not read(tmp_path, written).notes  # boxes do not need it
    with pytest.raises(DataError, match=rf"annotation 3: segmentation {said}.*leave segm out"):
        read(tmp_path, written, masks=True)


def test_run_lengths_both_ways(tmp_path: Path) -> None:
    """Compressed and not; the areas that are absent are theirs."""
    from pycocotools import mask as runs

    plain = {"size": [H, W], "counts": [100, 30, H * W - 130]}
    packed = runs.frPyObjects(plain, H, W)
    packed = {**packed, "counts": packed["counts"].decode()}
    written = document()
    for number, segmentation in enumerate((plain, packed)):
        written["annotations"][number]["segmentation"] = segmentation
        del written["annotations"][number]["area"]
    found = read(tmp_path, written, masks=True)
    assert [one["area"] for one in found.document["annotations"][:2]] == [30, 30]


def test_what_has_one_meaning_is_completed_and_told(tmp_path: Path) -> None:
    written = document()
    for number in range(5):
        del written["annotations"][number]["iscrowd"]
    del written["annotations"][1]["area"]
    written["annotations"][2].update(area=None, segmentation=None)
    written["annotations"][3].update(iscrowd=None)
    written["images"][0].update(height=40.0)
    del written["images"][1]["width"]
    found = read(tmp_path, written, measure=lambda image: (31, image["id"] * 10))
    assert found.mended and [image["height"] for image in found.document["images"]] == [40, 31]
    assert found.document["images"][1]["width"] == 20
    entries = found.document["annotations"]
    assert [entry["iscrowd"] for entry in entries] == [0] * 5
    assert [entry["area"] for entry in entries] == [100.0] * 5
    place = tmp_path / "a.json"
    assert found.notes == (
        f"{place}: no height or width of image 2: measured",
        f"{place}: no iscrowd in 5 annotations (1, 2, 3, ...): taken for 0",
        f"{place}: no area in annotation 2: taken from the segmentation",
        f"{place}: no area in annotation 3: taken from the box",
    )
    with for_mmdet(found) as copy:
        assert copy != place and json.loads(copy.read_text()) == found.document
    assert not copy.parent.exists()
    assert "iscrowd" not in place.read_text().replace(
        '"iscrowd": null', ""
    )  # the file itself stays


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("annotations", 2, bbox=[5, 5, 0, 9]), "a box of no size in annotation 3: noth"),
        (changed("annotations", 2, bbox=[5, 5, 9, -1]), "a box of no size in annotation 3: noth"),
        (changed("annotations", 2, bbox=[60, 5, 9, 9]), "a box outside of its image in annotation"),
        (changed("annotations", 2, bbox=[5, -9, 9, 9]), "a box outside of its image in annotation"),
        (changed("annotations", 2, id=0), "id 0 in annotation 0: counts as missed"),
        (lambda d: d["annotations"].clear(), "there are no annotations: no object to find"),
        (
            lambda d: [one.update(iscrowd=1) for one in d["annotations"]],
            "all annotations are crowds: no object to find",
        ),
    ],
)
def test_what_counts_but_is_odd_is_told(
    tmp_path: Path, change: Callable[[Document], None], said: str
) -> None:
    written = document()
    change(written)
    found = read(tmp_path, written)
    (note,) = found.notes
    assert said in note and not found.mended


def test_a_challenges_file_without_annotations_is_run_but_not_evaluated(tmp_path: Path) -> None:
    written = document()
    del written["annotations"]
    assert not read(tmp_path, written, objects=False).notes


@pytest.mark.parametrize("change", [changed("annotations", 2, image_id=1.0)])
def test_numbers_as_tables_write_them(tmp_path: Path, change: Callable[[Document], None]) -> None:
    written = document()
    change(written)
    assert not read(tmp_path, written).notes


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "not a COCO annotation file"),
        (b"[1, 2]", "it is a list: it needs images"),
        (b"null", "it is a NoneType"),
        (b'[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a file of results"),
        ('{"images": "Größe"}'.encode("latin-1"), "byte 14 is not utf-8: save it as UTF-8"),
        (codecs.BOM_UTF16_LE + b"{\x00a", "is not utf-16"),
    ],
)
def test_files_that_are_no_annotations(tmp_path: Path, raw: bytes, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.json: not a COCO annotation file") as raised:
        read_annotations(path)
    assert said in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_windows_writes(tmp_path: Path, encoding: str, end: str) -> None:
    written = document()
    written["categories"][0]["name"] = "Größe"
    text = json.dumps(written, ensure_ascii=False, indent=1).replace("\n", end)
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(encoding))
    found = read_annotations(path)
    assert found.document == written and found.mended
    with for_mmdet(found) as copy:
        assert json.loads(copy.read_bytes().decode("ascii")) == written


def test_names_survive_a_locale_without_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = document()
    written["categories"][0]["name"] = "Größe"
    path = tmp_path / "a.json"
    path.write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    assert not read_annotations(path).mended
    monkeypatch.setattr(locale, "getpreferredencoding", lambda _: "ISO-8859-1")
    assert read_annotations(path).mended


def test_order_and_names_of_classes(tmp_path: Path) -> None:
    read(tmp_path, document(), classes=("cat", "dog"))
    with pytest.raises(DataError, match="in the order cat, dog, but labels follow dog, cat"):
        read(tmp_path, document(), classes=("dog", "cat"))
    with pytest.raises(DataError, match="unknown categories dog; no category cow"):
        read(tmp_path, document(), classes=("cat", "cow"))
    check_classes(tmp_path, ["a", "b"], ("a", "b"))


def test_a_copy_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    found = read(tmp_path, document())
    mended = Annotations(found.path, found.document, (), mended=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with (
        pytest.raises(DataError, match=r"a\.json: was completed, .*: set TMPDIR"),
        for_mmdet(mended),
    ):
        pass


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (
            [2, 2, W, H],
            "a box that reaches beyond its image in annotation 3: a bbox is x, y, w",
        ),
        ([0.1, 0.2, 0.5, 0.4], "a box within the first pixel in annotation 3"),
    ],
    ids=["corners", "shares"],
)
def test_boxes_in_another_convention_are_told(tmp_path: Path, box: list[float], said: str) -> None:
    written = document()
    written["annotations"][2].update(bbox=box, area=box[2] * box[3])
    (tmp_path / "a.json").write_text(json.dumps(written))
    (note,) = read_annotations(tmp_path / "a.json").notes
    assert said in note
