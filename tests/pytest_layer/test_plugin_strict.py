"""A model whose test pipeline augments: told in the header, and refused by --onnxdet-strict."""

import pytest

CONFIG = """
model = dict(type='RetinaNet')
data = dict(test=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(8, 8), flip=True, transforms=[dict(type='Resize')]),
]))
"""
SAID = "*one_net: the test pipeline augments (flip): only the first view of each image is run*"


@pytest.fixture
def augmenting(toy: pytest.Pytester) -> pytest.Pytester:
    """The toy project with models of a config that flips."""
    path = toy.path / "flips.py"
    path.write_text(CONFIG)
    conftest = toy.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace('"none.py"', repr(str(path))))
    return toy


def test_it_is_told_in_the_header(augmenting: pytest.Pytester) -> None:
    result = augmenting.runpytest("--onnxdet", "-m", "toy", "test_graphs.py")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([f"onnxdet: {SAID[1:]}"])


@pytest.mark.parametrize("ini", [False, True])
def test_strict_refuses_it(augmenting: pytest.Pytester, ini: bool) -> None:
    words = ["--onnxdet", "-m", "toy", "test_graphs.py"]
    if ini:
        settings = augmenting.path / "tox.ini"
        settings.write_text(settings.read_text() + "\nonnxdet_strict = true\n")
    else:
        words.append("--onnxdet-strict")
    result = augmenting.runpytest(*words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--onnxdet-strict: {SAID[1:]}set flip=False and one scale*"])
