"""Memory for outputs whose size only a run decides."""

from __future__ import annotations

from typing import Any

from pytest_onnxdet.backends.base import BackendError
from pytest_onnxdet.backends.tensorrt.device import Buffer, Device


def make_allocator(trt: Any) -> Any:
    """The class of output allocators: memory that grows with what a graph turns out to give."""

    class Output(trt.IOutputAllocator):
        def __init__(self, device: Device) -> None:
            super().__init__()
            self.device = device
            self.buffer: Buffer | None = None
            self.shape: tuple[int, ...] = ()
            #: Of the launch that is going on.
            self.error: Exception | None = None

        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            return self._grown(size, alignment)

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return self._grown(size, alignment)

        def _grown(self, size: int, alignment: int) -> int:
            # The bindings would print an exception and go on. Kept, it is what the run fails with;
            # To the library 0 means that there is no memory.
            try:
                if self.buffer is None or self.buffer.size < size:
                    # Given back first: the two need not fit side by side.
                    self.buffer = None
                    self.buffer = self.device.empty(size)
                if self.buffer.address % max(1, alignment):
                    raise BackendError(f"device memory is not aligned to {alignment} bytes")
                return self.buffer.address
            except Exception as error:
                self.error = error
                return 0

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Output
