"""The stand-in for TensorRT refuses what the library refuses."""

from __future__ import annotations

import json

import pytest
from fake_tensorrt import Dims, Engine, Fake, Location, engine

RANGE = ((1, 3, 64, 64), (1, 3, 96, 64), (2, 3, 96, 96))


def made(fake: Fake, limits: object = RANGE, shape: object = None) -> Engine:
    return Engine(fake, json.loads(engine(1, limits, shape=shape)))


def test_what_python_derives_must_call_the_librarys_init(fake: Fake) -> None:
    class Silent(fake.IOutputAllocator):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"Silent\.__init__\(\) must be called"):
        Silent()


def test_a_context_is_of_no_use_without_its_engine(fake: Fake) -> None:
    loaded = made(fake)
    context = loaded.create_execution_context()
    assert context.set_input_shape("input", (1, 3, 64, 64))
    del loaded
    with pytest.raises(AssertionError, match="outlives its engine"):
        context.set_input_shape("input", (1, 3, 64, 64))


def test_shapes_outside_and_names_that_are_none_are_not_obeyed(fake: Fake) -> None:
    loaded = made(fake)
    context = loaded.create_execution_context()
    assert context.set_input_shape("image_shape", (2, 2))
    for name, shape in (
        ("input", (3, 3, 64, 64)),
        ("image_shape", (3, 2)),
        ("input", (1, 64, 64)),
        ("dets", (1, 3, 64, 64)),
    ):
        assert context.set_input_shape(name, shape) is False
    assert context.set_tensor_address("nothing", 256) is False
    assert context.set_output_allocator("input", fake.IOutputAllocator()) is False
    fixed = made(fake, None, (2, 3, 64, 64))
    context = fixed.create_execution_context()
    assert context.set_input_shape("input", (2, 3, 64, 64)) is True
    assert context.set_input_shape("input", (1, 3, 64, 64)) is False


def test_memory_is_read_where_it_is_and_as_long_as_it_lives(fake: Fake) -> None:
    loaded = made(fake)
    context = loaded.create_execution_context()
    buffers = {name: fake.host.empty(1 << 18) for name in ("input", "image_shape")}
    for name, shape in (("input", (1, 3, 64, 64)), ("image_shape", (1, 2))):
        assert context.set_input_shape(name, shape)
        assert context.set_tensor_address(name, buffers[name].address)
    del buffers["image_shape"]
    with pytest.raises(AssertionError, match="an illegal memory access"):
        context.execute_async_v3(fake.host.stream)
    with pytest.raises(AssertionError, match="nobody waits for"):
        context.execute_async_v3(0)


def test_shape_inputs_are_on_the_host(fake: Fake) -> None:
    loaded = made(fake)
    assert loaded.get_tensor_location("image_shape") is Location.DEVICE
    fake.shape_inputs = ("image_shape",)
    assert loaded.is_shape_inference_io("image_shape")
    assert loaded.get_tensor_location("image_shape") is Location.HOST


def test_dimensions_are_no_tuple(fake: Fake) -> None:
    shape = made(fake).get_tensor_shape("input")
    assert isinstance(shape, Dims) and shape != (-1, 3, -1, -1)
    assert tuple(shape) == (-1, 3, -1, -1)
