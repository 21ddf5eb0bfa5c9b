"""Image files: their headers, and how a pipeline's loading step reads them."""

from __future__ import annotations

import copy
import stat
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_onnxdet.data.annotations import Measure
from pytest_onnxdet.data.batches import DataError
from pytest_onnxdet.data.places import why_absent
from pytest_onnxdet.models.pipeline import settings_of_steps

#: EXIF's tag of how the camera was held; from 5 on height and width change places.
_ORIENTATION, _SIDEWAYS = 0x0112, 5
#: How a file of these formats ends, and in how many of its last bytes that is looked for.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 64
#: What has to be known of an image: its size as loaded, as it is run, and the factor between.
_METAS = ("ori_shape", "img_shape", "scale_factor")
#: Formats that every OpenCV reads.
_READ = ("BMP", "JPEG", "PNG")
#: What files begin with that are pictures to others; of these PIL may know nothing, either.
_OTHERS = {b"GIF8": "a GIF", b"%PDF": "a PDF", b"<svg": "an SVG"}
_FTYP = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF"}


@dataclass(frozen=True)
class Header:
    """What an image file says of itself.

    Attributes:
        height: px, as the pixels are stored.
        width: px.
        orientation: EXIF's, 1 to 8; 1: upright. Most loading steps turn the image by it.
        format: ``JPEG``, ``PNG``, ..., as PIL calls it.
    """

    height: int
    width: int
    orientation: int = 1
    format: str = ""

    @property
    def upright(self) -> tuple[int, int]:
        """(H, W) once the image is turned as its camera was held."""
        sideways = self.orientation >= _SIDEWAYS
        return (self.width, self.height) if sideways else (self.height, self.width)


def read_header(path: Path) -> Header | None:
    """The header of an image file, without its pixels; None where that cannot be read."""
    return _opened(path)[0]


def is_truncated(path: Path) -> bool:
    """Whether a JPEG or PNG breaks off. OpenCV fills up what is missing, and says nothing."""
    return _opened(path)[1]


def _opened(path: Path) -> tuple[Header | None, bool]:
    try:
        now = path.stat()
    except (OSError, ValueError):
        return None, False
    if not stat.S_ISREG(now.st_mode):  # a named pipe would be waited for
        return None, False
    return _opened_once(path, (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))


@lru_cache(maxsize=1 << 17)
def _opened_once(path: Path, _: tuple[int, ...]) -> tuple[Header | None, bool]:
    """A data set is checked and measured: each file of it, as it is now, is opened once."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # Large images are what a data set has; only headers are read.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            with Image.open(path) as image:
                header = Header(image.height, image.width, _orientation(image), image.format or "")
                return header, _breaks_off(path, image)
    except Exception:  # PIL knows fewer formats than OpenCV, and any error may be inside a file
        return None, False
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Any) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # PIL would read all pixels to look for it behind them
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _breaks_off(path: Path, image: Any) -> bool:
    end = _ENDS.get(image.format)
    if end is None:
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        if end in file.read():
            return False
    try:  # cameras append data of their own, so pixels decide
        image.load()
    except (OSError, SyntaxError, ValueError):
        return True
    return False


def load(pipeline: Sequence[Any], path: Path) -> NDArray[Any]:
    """An image as a pipeline's first step reads it: (H, W, C) or (H, W).

    Raises:
        DataError: it is missing, or cannot be read.
    """
    from mmdet.datasets.pipelines import Compose

    if not path.is_file():
        raise DataError(f"{path}: no such image{why_absent(path)}: put it there")
    try:
        step = Compose(copy.deepcopy(list(pipeline[:1])))
        read = step({"img_info": {"filename": str(path)}, "img_prefix": None})
        image: NDArray[Any] = read["img"]
        image.shape  # noqa: B018  (of an unreadable file mmcv gives None)
    except Exception as error:
        raise DataError(why_unreadable(path, error)) from error
    return image


def picture(pipeline: Sequence[Any], path: Path) -> NDArray[np.uint8]:
    """An image as one looks at it, (H, W, 3) BGR, of the size and way round that is detected in.

    Raises:
        DataError: it is missing, or cannot be read.
    """
    import cv2

    first = next(iter(pipeline), None)
    kind = first.get("color_type", "") if isinstance(first, Mapping) else ""
    as_stored = kind == "unchanged" or kind.endswith("ignore_orientation")
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if as_stored else 0)
    loaded = load(pipeline, path)
    seen: Any = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if seen is not None and seen.shape[:2] == loaded.shape[:2]:
        return np.asarray(seen, np.uint8)
    # Read by a step of the user's own: some three of its channels, over all of their range.
    channels = loaded.reshape(*loaded.shape[:2], -1)
    channels = channels[..., [0, channels.shape[-1] // 2, -1]]
    low, high = float(np.nanmin(loaded)), float(np.nanmax(loaded))
    grey = np.nan_to_num((channels.astype(np.float64) - low) / max(high - low, 1e-9))
    return np.ascontiguousarray(grey * 255, np.uint8)


def measure_by(pipeline: Sequence[Any], folder: Path) -> Measure:
    """Measures images of a folder as a pipeline's first step reads them."""

    def measure(image: Mapping[str, Any]) -> tuple[int, int]:
        height, width = load(pipeline, folder / image["file_name"]).shape[:2]
        return int(height), int(width)

    return measure


def require_collected(path: Path, data: Any) -> None:
    """Refuses what a pipeline gave that ends without an image; raises `DataError`."""
    absent = [key for key in ("img", "img_metas") if key not in (data or ())]
    if absent:
        raise DataError(
            f"{path}: the test pipeline gives no {' and no '.join(absent)}: end data.test.pipeline "
            "with dict(type='Collect', keys=['img'])"
        )


def require_meta(path: Path, meta: Mapping[str, Any]) -> None:
    """Refuses an image without what places its boxes in the original; raises `DataError`."""
    absent = [key for key in _METAS if key not in meta]
    if absent:
        raise DataError(
            f"{path}: the test pipeline gives no {' and no '.join(absent)}: name it in the "
            "meta_keys of data.test.pipeline's Collect (Collect.meta_keys), or leave these out"
        )


def why_unreadable(
    path: Path, error: Exception, pipeline: Sequence[Any] = (), where: str = "on this image"
) -> str:
    """What is said of an image that the test pipeline fails on.

    Args:
        path: the image.
        error: what the pipeline raised.
        pipeline: its steps, where they may not fit the image's channels.
        where: it failed.
    """
    import cv2

    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as denied:
        return f"{path}: cannot be read ({denied.strerror}): correct its permissions"
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size else None
    except cv2.error as refused:  # more pixels than it takes
        return f"{path}: OpenCV cannot read this image ({' '.join(str(refused).split())[:200]})"
    if image is None:
        if other := _other_format(path, raw.tobytes()[:_TAIL]):
            return f"{path}: is {other}, which OpenCV here does not read: convert it to PNG or JPEG"
        what = "breaks off, and cannot be read" if is_truncated(path) else "cannot be read"
        return f"{path}: {what} as an image: replace the file"
    if several := _other_channels(path, pipeline):
        return f"{path}: {several}"
    return f"{path}: the test pipeline fails {where} ({reason}): correct data.test.pipeline"


def _other_format(path: Path, start: bytes) -> str:
    """Which format of image a file is of that OpenCV does not read; empty where none is seen."""
    for beginning, name in _OTHERS.items():
        if start.lstrip().startswith(beginning):
            return name
    if start[4:8] == b"ftyp" and start[8:12] in _FTYP:
        return f"of format {_FTYP[start[8:12]]}"
    header, truncated = _opened(path)
    known = header is not None and not truncated and header.format not in _READ
    return f"of format {header.format}" if header and known else ""


def _other_channels(path: Path, pipeline: Sequence[Any]) -> str:
    """How an image's channels and those of the pipeline's Normalize differ; empty where not."""
    for step in settings_of_steps(pipeline):
        mean = step.get("mean")
        if step.get("type") == "Normalize" and isinstance(mean, list | tuple):
            shape = load(pipeline, path).shape
            channels = shape[2] if len(shape) > 2 else 1
            if channels != len(mean):
                return (
                    f"{channels} channel(s) as read, where the pipeline's Normalize has "
                    f"{len(mean)}: correct the loading step (color_type), or mean and std"
                )
    return ""


def check_images(
    images: Sequence[tuple[Path, Mapping[str, Any]]],
    pipeline: Sequence[Any],
    *,
    masks: bool,
    present: bool = True,
) -> tuple[str, ...]:
    """Looks at the headers of a data set's images before they are run.

    Args:
        images: file and entry, whose ``height`` and ``width`` are the listed size.
        pipeline: the test pipeline, whose first step reads them.
        masks: whether masks are evaluated. Those of another size than the objects' match nothing.
        present: refuse a missing one now, and not when its turn comes.

    Returns:
        What is odd, a sentence each.

    Raises:
        DataError: an image is missing, or cannot be evaluated.
    """
    broken: list[Path] = []
    other: list[str] = []
    loaded: dict[tuple[Header, Any, Any], tuple[int, int]] = {}
    for path, info in images:
        if present and not path.is_file():
            raise DataError(f"{path}: no such image{why_absent(path)}: put it there")
        header, truncated = _opened(path)
        if truncated:
            broken.append(path)
        if present and (truncated or header is None or header.format not in _READ):
            load(pipeline, path)  # OpenCV's versions differ in what they read
        listed = info.get("height"), info.get("width")
        if header is None or None in listed or listed == header.upright == _stored(header):
            continue
        key = header, *listed
        if key not in loaded:
            loaded[key] = measure_by(pipeline, Path())({"file_name": str(path)})
        if loaded[key] == listed:
            continue
        turned = ", turned by its EXIF orientation" if loaded[key] != _stored(header) else ""
        sizes = "{} x {} px as read{}, listed as {} x {}".format(*loaded[key], turned, *listed)
        if masks:
            raise DataError(
                f"{path}: {sizes}: its masks cannot be compared: correct height and width, and "
                "the segmentations, or leave segm out"
            )
        other.append(f"{path}: {sizes}")
    notes = []
    if other:
        notes.append(f"{other[0]}{_more(other)}: boxes are taken for those of the image as read")
    if broken:
        notes.append(f"{broken[0]}{_more(broken)}: breaks off; the rest is grey, as in mmdet")
    return tuple(notes)


def _stored(header: Header) -> tuple[int, int]:
    return header.height, header.width


def _more(those: Sequence[Any]) -> str:
    return f" (and {len(those) - 1} more)" if len(those) > 1 else ""
