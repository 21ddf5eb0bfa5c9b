"""A deploy model run in PyTorch, batch by batch, as a backend's session runs its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_onnxdet.data.batches import Batch


@dataclass(frozen=True)
class Eager:
    """A deploy model in PyTorch.

    Attributes:
        deploy: the DeployModel, on the CPU.
        raw: whether it ends with the raw outputs.
    """

    deploy: Any
    raw: bool = False

    def run(self, batch: Batch) -> dict[str, Any]:
        """The outputs by name, as arrays."""
        import torch

        arrays = torch.from_numpy(batch.images), torch.from_numpy(batch.image_shape)
        with torch.no_grad():
            if self.raw:
                values = self.deploy.raw(*arrays)
            else:
                values = dict(zip(self.deploy.outputs, self.deploy(*arrays), strict=True))
        return {name: value.numpy() for name, value in values.items()}
