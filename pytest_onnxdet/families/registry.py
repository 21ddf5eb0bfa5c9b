"""The families that a run can lower, looked up by a detector's classes. Imports nothing heavy."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_onnxdet.core.registry import Registry
from pytest_onnxdet.families.box_values import require_box_values
from pytest_onnxdet.families.classes import UnsupportedPart, name_of, names_of
from pytest_onnxdet.families.family import Family
from pytest_onnxdet.families.settings import half_a_detector, parts_of

if TYPE_CHECKING:
    from torch import nn

#: Where a detector's head may lie, for messages.
HEADS = ("roi_head", "bbox_head", "mask_head", "rpn_head")
#: The built-in families: the module of this folder and the name in it.
BUILTIN = {
    "dense": ("dense", "DENSE"),
    "gfl": ("dense_boxes", "GFL"),
    "fovea": ("dense_boxes", "FOVEA"),
    "reppoints": ("dense_boxes", "REPPOINTS"),
    "tood": ("tood", "TOOD"),
    "sabl": ("sabl", "SABL"),
    "paa": ("dense_priors", "PAA"),
    "guided": ("dense_priors", "GUIDED"),
    "yolox": ("yolox", "YOLOX"),
    "yolo": ("yolo", "YOLO"),
    "detr": ("detr", "DETR"),
    "deformable_detr": ("deformable_detr", "DEFORMABLE_DETR"),
    "cornernet": ("cornernet", "CORNERNET"),
    "centripetalnet": ("centripetalnet", "CENTRIPETALNET"),
    "centernet": ("centernet", "CENTERNET"),
    "two_stage": ("two_stage", "TWO_STAGE"),
    "rpn": ("rpn", "RPN"),
    "sparse_rcnn": ("sparse_rcnn", "SPARSE_RCNN"),
    "point_rend": ("point_rend", "POINT_REND"),
    "double_head": ("two_stage", "DOUBLE_HEAD"),
    "trident": ("two_stage", "TRIDENT"),
    "htc": ("cascades", "HTC"),
    "scnet": ("cascades", "SCNET"),
    "grid": ("grid", "GRID"),
    "solo": ("solo", "SOLO"),
    "decoupled_solo": ("decoupled_solo", "DECOUPLED_SOLO"),
    "solov2": ("solov2", "SOLOV2"),
    "yolact": ("yolact", "YOLACT"),
    "mask_scoring": ("mask_scoring", "MASK_SCORING"),
    "maskformer": ("maskformer", "MASKFORMER"),
    "mask2former": ("mask2former", "MASK2FORMER"),
}


class UnknownFamily(LookupError):
    """A name that no registered family has."""


class FamilyRegistry(Registry[Family]):
    """Families, unique by name, kept in the order of registration.

    Args:
        families: present from the start.
        builtin: whether the built-in ones are there, too. They are loaded, and PyTorch with them,
            when a family is asked for.
    """

    def __init__(self, families: Iterable[Family] = (), builtin: bool = False) -> None:
        self._unloaded = dict(BUILTIN) if builtin else {}
        super().__init__(families)

    def register(self, thing: Family) -> None:
        """Add a family; raises ValueError where its name is taken."""
        if thing.name in self._unloaded:
            raise self.duplicate(thing, thing)
        super().register(thing)

    def replace(self, family: Family) -> None:
        """Put ``family`` in the place of the one of its name.

        Raises:
            ValueError: there is none of that name.
        """
        if family.name not in self.names():
            raise ValueError(
                f"no family {family.name!r} to replace; there are: {', '.join(self.names())}"
            )
        self._load()
        self.entries[family.name] = family

    def names(self) -> tuple[str, ...]:
        """Registered names, built-in ones first."""
        return (*self._unloaded, *super().names())

    def get(self, name: str) -> Family:
        """The family of that name; raises `UnknownFamily`."""
        for family in self:
            if family.name == name:
                return family
        raise UnknownFamily(f"no family {name!r}; there are: {', '.join(self.names())}")

    def __iter__(self) -> Iterator[Family]:
        self._load()
        return super().__iter__()

    def __len__(self) -> int:
        return len(self.names())

    def _load(self) -> None:
        unloaded, self._unloaded = self._unloaded, {}
        here = __name__.rpartition(".")[0]
        loaded: dict[Hashable, Family] = {
            name: getattr(import_module(f"{here}.{module}"), attribute)
            for name, (module, attribute) in unloaded.items()
        }
        self.entries = {**loaded, **self.entries}

    def of(self, detector: nn.Module) -> Family:
        """The family that takes a detector: the one whose class is nearest to its head's.

        Raises:
            UnsupportedPart: none does, or the one that knows the head's class does not take this
                detector; the message names the part.
            ValueError: two families have the same class of head.
        """
        near: list[tuple[int, Family]] = []
        for family in self:
            kind = family.registered(detector)
            if kind is not None:
                near.append((type(family.head(detector)).__mro__.index(kind), family))
        if not near:
            raise UnsupportedPart(self._no_family(detector))
        nearest = min(distance for distance, _ in near)
        chosen = [family for distance, family in near if distance == nearest]
        if len(chosen) > 1:
            raise ValueError(
                f"families {' and '.join(repr(family.name) for family in chosen)} both take "
                f"{type(chosen[0].head(detector)).__name__}: name it in one of them"
            )
        chosen[0].check(detector)
        require_box_values(detector)
        return chosen[0]

    def _no_family(self, detector: nn.Module) -> str:
        model: Any = detector
        heads = (getattr(model, name, None) for name in HEADS)
        head = next((one for one in heads if one is not None), None)
        kinds = [kind for family in self for kind in family.heads]
        if half := half_a_detector(type(detector).__name__, parts_of(detector)):
            return half
        if head is None:
            return (
                f"{type(detector).__name__} has no lowering: it has no {', '.join(HEADS)}; "
                f"these heads have one: {names_of(kinds)}"
            )
        own = type(head)
        text = (
            f"{type(detector).__name__} with {own.__name__} has no lowering; "
            f"these heads have: {names_of(kinds)}"
        )
        if own.__name__ in map(name_of, kinds):
            text += f". This one is {own.__module__}.{own.__qualname__}, which is another class"
        return text


def builtin_families() -> FamilyRegistry:
    """A registry of the shipped families, to which others can be added."""
    return FamilyRegistry(builtin=True)


def clips_boxes(detector: nn.Module, families: FamilyRegistry | None = None) -> bool:
    """Whether the detector's last head clips its boxes at the image's border.

    Its box coder says so, as in mmdet; a head without such a coder, or whose boxes are not from it,
    makes no promise, nor does one whose family knows that it decodes by itself.

    Args:
        detector: one of mmdet's.
        families: where its family is looked up; None: the built-in ones.
    """
    model: Any = detector
    head: Any = getattr(getattr(model, "roi_head", model), "bbox_head", None)
    if hasattr(head, "__len__"):  # a cascade's, one for each stage
        head = head[-1]
    if not getattr(getattr(head, "bbox_coder", None), "clip_border", False):
        return False
    try:
        return (families or builtin_families()).of(detector).clips
    except UnsupportedPart:
        return True


def own_code(family: Family, model: nn.Module) -> Mapping[str, str]:
    """Source files outside this package that decide what a family's graphs compute, by name.

    Empty for the built-in families, whose code names graphs already.

    Args:
        family: how the detector is lowered.
        model: the deploy model that it gives.
    """
    package = __name__.partition(".")[0]
    files = {}
    for kind in (*type(family).__mro__, *type(model).__mro__):
        top = kind.__module__.partition(".")[0]
        if top in (package, "torch", "builtins", "abc"):
            continue
        name = inspect.getsourcefile(kind)
        if name is not None:
            files[kind.__module__] = Path(name).read_text()
    return files
