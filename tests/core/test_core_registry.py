"""One registry for models, backends, data sets: what is taken is refused."""

from dataclasses import dataclass

import pytest

from pytest_onnxdet.core.registry import Registry


@dataclass
class Thing:
    name: str
    value: int = 0


def test_things_are_kept_in_order_and_a_second_of_a_name_raises() -> None:
    registry = Registry([Thing("b"), Thing("a")])
    assert registry.names() == ("b", "a") and len(registry) == 2
    with pytest.raises(ValueError, match="'a' is registered already: use another name"):
        registry.register(Thing("a", 1))
    assert [thing.value for thing in registry] == [0, 0]
