"""The settings of a test_cfg that decide which boxes are left, read as mmdet 2.28 reads them.

Each refusal names the key by its full path in the config, and what to write instead.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Mapping
from functools import partial
from typing import Any

from pytest_onnxdet.core.notes import note
from pytest_onnxdet.families.classes import UnsupportedPart
from pytest_onnxdet.families.suppression import METHODS, SPLIT, Suppression

TEST_CFG, RPN, RCNN = "model.test_cfg", "model.test_cfg.rpn", "model.test_cfg.rcnn"
HEADS = ("rpn_head", "roi_head", "bbox_head")
#: Keys of test_cfg of mmdet 2.0 to 2.7, which 2.28 does not read, and what took their place.
SUCCESSORS = {
    "nms_thr": "nms=dict(type='nms', iou_threshold=...)",
    "max_num": "max_per_img",
    "nms_post": "max_per_img",
}
MOST = 2**31 - 1  # boxes; nobody has so many, and runtimes count no farther
_BRINGS = {"nms": ("nms_thr",), "max_per_img": ("max_num", "nms_post")}


_NUMBERS = ("sigma", "min_score", "score_threshold")


def require_settings(cfg: Any, path: str, keys: Iterable[str]) -> None:
    """Refuses settings without a key that mmdet reads when it detects.

    Args:
        cfg: a head's test_cfg.
        path: where it stands in the config.
        keys: that have to be there.

    Raises:
        UnsupportedPart: the message names the key's path, and the key of an older mmdet that is
            there in its place.
    """
    if not cfg or not isinstance(cfg, Mapping):
        what = "missing or empty" if not cfg else f"{cfg!r}"
        raise UnsupportedPart(
            f"{path} is {what}: mmdet reads {', '.join(keys)} from it when it detects"
        )
    for old, successor in SUCCESSORS.items():
        if old in cfg and successor.partition("=")[0] in cfg:
            note(
                f"{path}.{old} is a key of an older mmdet that 2.28 does not read here; "
                f"{successor} took its place, and counts"
            )
    for key in keys:
        if key in cfg:
            if key.endswith("_thr") and (
                isinstance(cfg[key], bool) or not isinstance(cfg[key], int | float)
            ):
                raise UnsupportedPart(f"{path}.{key} is {cfg[key]!r}: give a number")
            if (key == "score_thr" and not cfg[key] < 1) or (
                key == "conf_thr" and not cfg[key] <= 1
            ):  # so is NaN
                raise UnsupportedPart(
                    f"{path}.{key} is {cfg[key]!r}, which no score reaches: nothing would be "
                    "detected: give a number below 1"
                )
            continue
        was = [name for name in _BRINGS.get(key, ()) if name in cfg]
        if was:
            raise UnsupportedPart(
                f"{path}.{was[0]} is a key of an older mmdet, which 2.28 does not read: "
                f"write {SUCCESSORS[was[0]]} (now: {was[0]}={cfg[was[0]]!r})"
            )
        raise UnsupportedPart(f"{path}.{key} is missing: mmdet reads it when it detects")


def require_cut(
    cfg: Any, path: str, key: str, default: int | None = None, otherwise: str = ""
) -> None:
    """Refuses a cut that is not positive, where mmdet does not take that for "all".

    Args:
        cfg: a head's test_cfg.
        path: where it stands in the config.
        key: of the cut.
        default: what mmdet takes where the key is missing.
        otherwise: what mmdet does with one that is not positive; empty: it slices with the number
            as it is, so that -1 leaves out the last box of each image (or level) and 0 all of them.

    Raises:
        UnsupportedPart: the message names the key's path.
    """
    value = cfg.get(key, default)
    require_number(value, path, key)
    if value > 0:
        return
    state = f"is {value}" if key in cfg else f"is missing, for which mmdet takes {value}"
    out = "all" if value == 0 else "the last ones"
    raise UnsupportedPart(
        f"{path}.{key} {state}: {otherwise or f'mmdet slices [:{value}], which leaves out {out}'}; "
        "that has no lowering: give the number of boxes to keep, from 1"
    )


def require_slice(cfg: Any, path: str, key: str, default: int | None = None) -> None:
    """Says what a head leaves out that slices with a cut which is not positive.

    Args:
        cfg: a head's test_cfg.
        path: where it stands in the config.
        key: of the cut.
        default: what mmdet takes where the key is missing.

    Raises:
        UnsupportedPart: it is no whole number; the message names the key's path.
    """
    value = cfg.get(key, default)
    require_number(value, path, key)
    if value > 0:
        return
    state = f"is {value}" if key in cfg else f"is missing, for which mmdet takes {value}"
    out = "all" if value == 0 else "the last one" if value == -1 else f"the last {-value}"
    of = "level" if key == "nms_pre" else "image"
    note(
        f"{path}.{key} {state}: mmdet slices [:{value}], which leaves out {out} of each {of}, "
        "and so does the graph"
    )


def modern(cfg: Any) -> Any:
    """A proposal network's test_cfg with the keys of today, of heads that still read older ones.

    Args:
        cfg: ``nms_thr`` stands for ``nms``, and ``max_num`` for ``max_per_img``. Where both are
            there mmdet demands that they are equal.

    Raises:
        UnsupportedPart: they are not.
    """
    if not isinstance(cfg, Mapping) or not {"nms_thr", "max_num"} & set(cfg):
        return cfg
    read: Any = copy.deepcopy(cfg)
    count = read.pop("max_num", None)
    if count is not None and read.setdefault("max_per_img", count) != count:
        raise UnsupportedPart(f"{RPN}.max_num and max_per_img differ: mmdet demands one number")
    if "nms_thr" in read:
        threshold = read.pop("nms_thr")
        nms = read.setdefault("nms", {"type": "nms", "iou_threshold": threshold})
        if nms.get("iou_threshold") != threshold:
            raise UnsupportedPart(f"{RPN}.nms_thr and nms differ: mmdet demands one threshold")
    return read


def require_rpn(rpn: Any) -> None:
    """Refuses settings of a proposal network that have no lowering.

    Raises:
        UnsupportedPart: the message names the key's path.
    """
    require_settings(rpn, RPN, ("nms", "max_per_img", "min_bbox_size"))
    require_real(rpn.min_bbox_size, RPN, "min_bbox_size")
    require_number(rpn.get("nms_pre", -1), RPN, "nms_pre")  # not positive: all
    suppression(rpn, RPN)
    require_slice(rpn, RPN, "max_per_img")


def require_two_stage(rpn: Any, rcnn: Any) -> None:
    """Refuses settings of a proposal network and an RoI head that have no lowering.

    Raises:
        UnsupportedPart: the message names the key's path.
    """
    require_rpn(rpn)
    require_settings(rcnn, RCNN, ("score_thr", "nms", "max_per_img"))
    suppression(rcnn, RCNN)
    require_number(rcnn.max_per_img, RCNN, "max_per_img")  # not positive: all


def parts_of(detector: Any) -> list[str]:
    """The names under which a detector, or its config, has heads."""
    get = detector.get if isinstance(detector, Mapping) else partial(getattr, detector)
    return [name for name in HEADS if get(name, None) is not None]


def half_a_detector(kind: str, parts: Container[str]) -> str | None:
    """Why a two-stage detector's second stage alone is refused; None where it is none.

    Args:
        kind: the detector's class.
        parts: see `parts_of`.
    """
    if "roi_head" in parts and "rpn_head" not in parts:
        return (
            f"{kind} has no lowering: it has no proposal network (rpn_head) and takes its "
            "proposals from a file, where a graph takes images alone; FasterRCNN with the same "
            "heads has one"
        )
    return None


def require_both_stages(detector: Any) -> None:
    """Refuses one stage of a two-stage detector alone; raises `UnsupportedPart`."""
    if why := half_a_detector(type(detector).__name__, parts_of(detector)):
        raise UnsupportedPart(why)


def require_share(value: Any, path: str, key: str) -> None:
    """Refuses an overlap that is none from 0 to 1; raises `UnsupportedPart` with the key's path."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UnsupportedPart(f"{path}.{key} is {value!r}: give a number from 0 to 1")


def require_number(value: Any, path: str, key: str) -> None:
    """Refuses a cut that is no whole number; raises `UnsupportedPart` with the key's path."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnsupportedPart(f"{path}.{key} is {value!r}: give a whole number")
    if abs(value) > MOST:
        raise UnsupportedPart(f"{path}.{key} is {value!r}: give a whole number up to {MOST}")


def require_real(value: Any, path: str, key: str) -> None:
    """Refuses what is no number, as is NaN; raises `UnsupportedPart` with the key's path."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value != value:
        raise UnsupportedPart(f"{path}.{key} is {value!r}: give a number")


def require_count(
    value: Any, path: str, key: str, least: int = 1, most: int | None = None, why: str = ""
) -> None:
    """Refuses what is no whole number in a range; raises `UnsupportedPart` with the key's path.

    Args:
        value: the setting.
        path: where it stands in the config.
        key: its name.
        least: the smallest one.
        most: the largest one; None: there is none.
        why: there is a largest one.
    """
    require_number(value, path, key)
    if value < least or (most is not None and value > most):
        upto = f" to {most}{f', as {why}' if why else ''}" if most is not None else ""
        raise UnsupportedPart(f"{path}.{key} is {value!r}: give a whole number from {least}{upto}")


def suppression(cfg: Any, path: str = TEST_CFG, sliced: bool = False) -> Suppression:
    """A config's suppression, which must be one of mmcv's ``nms`` and ``soft_nms``.

    Args:
        cfg: a head's test_cfg, with ``nms``.
        path: where it stands in the config, for the message.
        sliced: whether the head slices with ``max_per_img``, also where it is not positive.

    Raises:
        UnsupportedPart: another kind, or an option that mmcv does not take.
    """
    settings = cfg["nms"]
    if settings is None:  # mmcv only sorts then
        return Suppression(1.0, sliced=sliced)
    try:
        nms = dict(settings)
    except (TypeError, ValueError):
        raise UnsupportedPart(
            f"{path}.nms is {settings!r}: write dict(type='nms', iou_threshold=...)"
        ) from None
    kind = nms.pop("type", "nms")
    soft = kind == "soft_nms"
    threshold = nms.pop("iou_threshold", nms.pop("iou_thr", 0.3 if soft else None))
    if threshold is not None:
        require_share(threshold, path, "nms.iou_threshold")
    for key in _NUMBERS:
        if key in nms:
            require_real(nms[key], path, f"nms.{key}")
    for key in ("max_num", "split_thr"):
        if key in nms:
            require_number(nms[key], path, f"nms.{key}")
    agnostic = nms.get("class_agnostic", False)
    if not isinstance(agnostic, bool | int):
        raise UnsupportedPart(f"{path}.nms.class_agnostic is {agnostic!r}: give True or False")
    read = {
        "class_agnostic": bool(nms.pop("class_agnostic", False)),
        "split_thr": nms.pop("split_thr", SPLIT),
        "offset": nms.pop("offset", 0),
    }
    if soft:
        read |= {
            "soft": nms.pop("method", "linear"),
            "sigma": float(nms.pop("sigma", 0.5)),
            "min_score": float(nms.pop("min_score", 1e-3)),
        }
    else:
        read["score_threshold"] = float(nms.pop("score_threshold", 0.0))
        read["max_num"] = nms.pop("max_num", -1)
    if (
        kind not in ("nms", "soft_nms")
        or threshold is None
        or nms
        or read["offset"] not in (0, 1)
        or read.get("soft", METHODS[0]) not in METHODS
    ):
        raise UnsupportedPart(
            f"{path}.nms is {dict(settings)}; mmcv's 'nms' with an iou_threshold and 'soft_nms' "
            "have a lowering here, with the options that mmcv gives them"
        )
    return Suppression(float(threshold), sliced=sliced, **read)
