"""A stand-in for a GPU: memory by address, one stream, a clock that only work on it moves."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from pytest_onnxdet.backends.base import BackendError
from pytest_onnxdet.backends.tensorrt.device import Buffer, Device

#: Milliseconds of device time that a copy takes.
COPY_MS = 100.0
#: What addresses are multiples of, as those of cudaMalloc.
ALIGNMENT = 256


class Block:
    """What keeps memory alive: it is freed with this."""


class Host(Device):
    """Device memory is host memory, full of rubbish at first; addresses are keys of a table."""

    stream = 7

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray[Any, Any]] = {}
        self.max_size = 1 << 30
        self.fails: Exception | None = None  # what the next allocations raise
        self.clock = 0.0  # of what was put on the stream
        self.passed = 0.0  # of what is known to be done
        self._next = ALIGNMENT
        self._pending: list[Any] = []
        self._uploads: list[Any] = []

    def empty(self, size: int) -> Buffer:
        if self.fails is not None:
            raise self.fails
        if size > self.max_size:
            raise BackendError("out of device memory")
        address, self._next = self._next, self._next + ALIGNMENT
        self.memory[address] = np.full(size, 0xCD, np.uint8)
        owner = Block()
        weakref.finalize(owner, self.memory.pop, address)
        return Buffer(address, size, owner)

    def at(self, address: int, size: int) -> np.ndarray[Any, Any]:
        """The memory that a kernel uses."""
        assert address in self.memory, f"an illegal memory access at {address}"
        assert len(self.memory[address]) >= size, f"an access beyond the end of {address}"
        return self.memory[address][:size]

    def upload(self, array: Any, to: Buffer) -> None:
        """The array is read late, as the driver may from pinned memory."""

        def arrive() -> None:
            self.at(to.address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

        self.at(to.address, array.nbytes)
        self.clock += COPY_MS
        self._uploads.append(arrive)

    def receive(self) -> None:
        """What was uploaded is there: work that comes later on the stream reads it."""
        uploads, self._uploads = self._uploads, []
        for arrive in uploads:
            arrive()

    def download(self, buffer: Buffer, array: Any) -> None:
        def arrive() -> None:
            array.reshape(-1).view(np.uint8)[:] = self.at(buffer.address, array.nbytes)

        array.reshape(-1).view(np.uint8)[:] = 255
        self.clock += COPY_MS
        self._pending.append(arrive)

    def later(self, arrive: Callable[[], object]) -> None:
        """Something that is done when the stream has come to it."""
        self._pending.append(arrive)

    def synchronize(self) -> None:
        self.receive()
        for arrive in self._pending:
            arrive()
        self._pending, self.passed = [], self.clock

    def event(self) -> float:
        return self.clock

    def elapsed(self, start: float, end: float) -> float:
        assert end <= self.passed, "the event has not been passed: synchronize first"
        return end - start
