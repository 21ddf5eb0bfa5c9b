"""Hooks by which another repository adds models, backends, data sets and families to the suite.

They are called once, when a run with ``--onnxdet`` starts, and never without it. Implement them in
a plugin, or in a ``conftest.py`` that pytest loads at start-up: beside the ini file, or in a
folder that ``testpaths`` or the command line names. What raises in them ends the run as a usage
error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_onnxdet.backends.registry import BackendRegistry
    from pytest_onnxdet.data.datasets import DatasetRegistry
    from pytest_onnxdet.families.registry import FamilyRegistry
    from pytest_onnxdet.models.registry import ModelRegistry


@pytest.hookspec
def pytest_onnxdet_models(registry: ModelRegistry) -> None:
    """Register models beside the built-in ones, or in a profile of their own.

    Args:
        registry: ``register(spec)`` takes a ModelSpec and raises where the name and profile are
            taken. The name becomes a marker and the first part of the test ids.

    Example, ``pytest --onnxdet --onnxdet-profile shop`` then verifies this detector alone::

        # conftest.py
        from pathlib import Path

        from pytest_onnxdet import ModelSpec

        HERE = Path(__file__).parent

        def pytest_onnxdet_models(registry):
            registry.register(
                ModelSpec(
                    name="shelf_finder",
                    config=str(HERE / "configs/shelf_finder.py"),
                    weights=str(HERE / "weights/shelf_finder.pth"),
                    profile="shop",
                    dataset="shelves",
                    classes=("box", "can"),
                )
            )
    """


@pytest.hookspec
def pytest_onnxdet_backends(registry: BackendRegistry) -> None:
    """Register runtimes beside the built-in ones.

    Args:
        registry: ``register(backend)`` takes a Backend and raises where its name is taken.

    Example, ``pytest --onnxdet -m acme`` then runs every model on that runtime::

        # conftest.py
        from importlib.util import find_spec

        from pytest_onnxdet import Backend, Session

        class AcmeSession(Session):
            def __init__(self, artifact):
                super().__init__(artifact)
                import acme

                self._engine = acme.load(artifact.path)

            def _run(self, feeds):
                return self._engine(feeds)

        class AcmeBackend(Backend):
            name = "acme"

            def missing(self):
                return None if find_spec("acme") else "acme is missing: pip install acme"

            def prepare(self, artifact, threads=None):
                return AcmeSession(artifact)

        def pytest_onnxdet_backends(registry):
            registry.register(AcmeBackend())
    """


@pytest.hookspec
def pytest_onnxdet_datasets(registry: DatasetRegistry) -> None:
    """Register data sets, which models refer to by name.

    Args:
        registry: ``register(spec)`` takes a DatasetSpec and raises where its name is taken.

    Example::

        # conftest.py
        from pathlib import Path

        from pytest_onnxdet import DatasetSpec

        HERE = Path(__file__).parent

        def pytest_onnxdet_datasets(registry):
            registry.register(
                DatasetSpec(
                    name="shelves",
                    annotations=HERE / "shelves/val.json",
                    images=HERE / "shelves/val",
                    classes=("box", "can"),
                )
            )
    """


@pytest.hookspec
def pytest_onnxdet_families(registry: FamilyRegistry) -> None:
    """Register how detectors are lowered whose head no built-in family takes.

    Args:
        registry: ``register(family)`` takes a Family and raises where its name is taken,
            ``get(name)`` gives a built-in one: ``dense``, ``yolo``, ``detr``, ``cornernet``,
            ``two_stage``, ``point_rend``. A head goes to the family whose class is nearest to its
            own; ``replace(family)`` puts one in the place of that name.

    Example, a dense head that scores otherwise and decodes as RetinaHead does::

        # conftest.py
        from dataclasses import replace

        def pytest_onnxdet_families(registry):
            dense = registry.get("dense")
            registry.register(replace(dense, name="shelf", heads=("shop.heads.ShelfHead",)))
    """
