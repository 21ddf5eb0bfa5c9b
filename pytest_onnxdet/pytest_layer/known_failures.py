"""Failures that somebody knows of: excused for a while, and strictly.

pytest's own strict ``xfail`` does the work: a test that fails is reported as expected, one that
passes fails. On top of that an excuse ends on its day, and one that speaks of nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest

from pytest_onnxdet.core.vocabulary import CHECKS, SHAPES
from pytest_onnxdet.models.own import OWN
from pytest_onnxdet.run.cases import Case, SettingsError

if TYPE_CHECKING:
    from pytest_onnxdet.backends.base import Backend
    from pytest_onnxdet.models.spec import KnownFailure, ModelSpec


def excuse(case: Case, check: str | None) -> pytest.MarkDecorator | None:
    """The mark of a check of a case whose failure is known; None where it is not."""
    known = _of(case, check)
    if known is None or known.expires < date.today():
        return None
    return pytest.mark.xfail(reason=str(known), strict=True)


def refuse_expired(case: Case, check: str | None) -> None:
    """Fails a check whose excuse has ended, whether it would pass or not."""
    known = _of(case, check)
    if known is not None and known.expires < date.today():
        pytest.fail(
            f"{case.id}: a known failure that expired on {known.expires}: {known.reason} "
            f"({known.issue}): mend it, or agree on another day",
            pytrace=False,
        )


def require_matching(specs: Iterable[ModelSpec], backends: Mapping[str, Backend]) -> None:
    """Refuses a known failure, or an own model's tolerances, that no case can ever have.

    Args:
        specs: the models.
        backends: all there are by name, whether a run asks for them or not.

    Raises:
        SettingsError: the message names the model and the entry.
    """
    for spec in specs:
        for backend in spec.tolerances if spec.profile == OWN else ():
            if backend not in backends:
                raise SettingsError(
                    f"model {spec.name!r}: tolerances of {backend!r}, which is no backend; there "
                    f"are: {', '.join(backends)}"
                )
        for known in spec.known_failures:
            building = [name for name, one in backends.items() if one.builds]
            for what, value, there in (
                ("check", known.check, tuple(CHECKS)),
                ("backend", known.backend, building if known.check == "build" else backends),
                ("shape", known.shape, SHAPES),
            ):
                if not any(fnmatchcase(one, value) for one in there):
                    raise SettingsError(
                        f"model {spec.name!r}: the known failure {str(known)!r} matches nothing: "
                        f"{what} {value!r}; there are: {', '.join(there) or 'none'}"
                    )


def _of(case: Case, check: str | None) -> KnownFailure | None:
    return next(
        (
            known
            for known in case.spec.known_failures
            if known.covers(check, case.backend.name, case.shape)
        ),
        None,
    )
