"""Autograd functions computed by other code for a while, whoever holds them under which name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


@contextlib.contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """For the duration of the block, an attribute of a class or module is another one."""
    own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextlib.contextmanager
def functions_as(codes: Mapping[type, Callable[..., Any]]) -> Iterator[None]:
    """For the duration of the block, autograd functions are plain functions of tensors.

    Modules hold ``SomeFunction.apply`` under names of their own, so it is replaced below all of
    them: where ``torch.autograd.Function.apply`` hands over to its base class.

    Args:
        codes: for each subclass of ``torch.autograd.Function`` what takes its ``apply``'s
            arguments.
    """
    base: Any = torch.autograd.Function.__mro__[1]
    outer = getattr(base.apply, "__func__", None)  # another block's, around this one

    def apply(kind: Any, *args: Any, **kwargs: Any) -> Any:
        if kind in codes:
            return codes[kind](*args, **kwargs)
        if outer is not None:
            return outer(kind, *args, **kwargs)
        return super(base, kind).apply(*args, **kwargs)

    with attribute(base, "apply", classmethod(apply)):
        yield
