"""The guard that reads where code decides by what a class is called."""

from __future__ import annotations

import ast

import pytest
from class_names import class_name_uses


@pytest.mark.parametrize(
    "code",
    [
        "type(x).__name__ == 'CornerHead'",
        "re.match('Corner.*', f'a {type(x).__name__}')",
        "name_of(type(x)) == 'CornerHead'",
        "module._get_name() == 'CornerHead'",
        "kind = type(x).__name__\nif kind in ('A', 'B'): pass",
        "t = type(x)\nt.__name__ == 'FCOSHead'",
        "any(k.__name__ == 'FCOSHead' for k in type(x).__mro__)",
        "[k.__qualname__ for k in type(x).mro()]",
        "getattr(type(x), '__name__') == 'A'",
        "attrgetter('__class__.__name__')(x)",
        "vars(kind)['__qualname__']",
        "TABLE[type(head).__name__]",
        "TABLE.get(type(head).__name__)",
        "x.__class__.__name__ != 'A'",
        "match type(x).__name__:\n    case 'A': pass",
        "{type(x).__name__: 1}",
        "{kind.__name__: kind for kind in kinds}",
        "type(x).__name__.startswith('Corner')",
        "f'{type(x).__name__}' == 'A'",
        "f'a {type(x).__name__}' == 'a B'",
        "f'a {type(x).__name__}' in seen",
        "seen[f'a {type(x).__name__}']",
        "{f'a {type(x).__name__}': 1}[key]",
        "f'a {type(x).__name__}'.endswith('Head')",
        "f'{type(x).__module__}.{type(x).__qualname__}' in TABLE",
        "name = f'{type(x).__qualname__}'",
        "str(type(x)) == 'A'",
        "repr(x.__class__).count('Head')",
        "'{}'.format(type(x)) == 'A'",
        "'%s' % type(x) == 'A'",
        "f'{type(x)}' in TABLE",
        "f'a {TABLE[type(x).__name__]}'",
        "t = type(x)\nstr(t) in TABLE",
        "for k in type(x).__mro__:\n    if str(k) in TABLE: pass",
        "f'{x:{type(x).__name__}}'",
    ],
)
def test_what_decides_by_a_name_is_seen(code: str) -> None:
    assert class_name_uses(ast.parse(code)), code


@pytest.mark.parametrize(
    "code",
    [
        "f'{type(error).__name__}: {error}'",
        "raise ValueError(f'a {type(x).__name__} is none')",
        "f'these are {\", \".join(kind.__name__ for kind in kinds)}'",
        "f'a head ({type(x)})'",
        "isinstance(x, A)",
        "type(x) is A",
        "{A: 1}[type(x)]",
        "if __name__ == '__main__': pass",
        "str(x) == 'A'",
    ],
)
def test_what_only_says_a_name_is_not(code: str) -> None:
    assert not class_name_uses(ast.parse(code)), code


def test_the_line_is_named() -> None:
    assert class_name_uses(ast.parse("x = 1\ny = (\n  type(x).__name__,\n)")) == [3]
