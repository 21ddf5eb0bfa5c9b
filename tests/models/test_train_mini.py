"""How the minis' training picks its batches."""

import numpy as np
import pytest
from train_mini import choose

SCENES = list("abcdefgh")
BY_SHAPE = [3, 0, 7, 1, 6, 2, 5, 4]


@pytest.mark.parametrize(("alike", "neighbours"), [(0.0, 0), (1.0, 50), (0.5, 25)])
def test_a_part_of_the_batches_is_of_like_shape(alike: float, neighbours: int) -> None:
    np.random.seed(0)
    runs = ["".join(SCENES[i] for i in BY_SHAPE[k : k + 4]) for k in range(5)]

    batches = ["".join(choose(SCENES, BY_SHAPE, 4, alike)) for _ in range(50)]  # type: ignore[arg-type]

    assert all(len(set(batch)) == 4 for batch in batches)
    assert sum(batch in runs for batch in batches) == pytest.approx(neighbours, abs=6)
    assert len(set(batches)) > 4
