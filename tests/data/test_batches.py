import numpy as np
import pytest

from pytest_onnxdet.data.batches import Batches, DataError, Sample, collate


def sample(height: int, width: int, padded: int = 32, value: float = 1.0) -> Sample:
    """An image of ones, in zeros up to a multiple of ``padded``."""
    image = np.zeros((3, -(-height // padded) * padded, -(-width // padded) * padded), np.float32)
    image[:, :height, :width] = value
    return Sample(image, {"img_shape": (height, width, 3), "filename": f"{height}x{width}.png"})


class Six:
    def __len__(self) -> int:
        return 6

    def sample(self, index: int) -> Sample:
        return sample(40 + index, 50, value=index + 1.0)


def test_collate_pads_with_zeros_and_reports_the_unpadded_shapes() -> None:
    batch = collate([sample(40, 70), sample(90, 33)])
    assert batch.images.shape == (2, 3, 96, 96) and batch.images.dtype == np.float32
    assert batch.image_shape.tolist() == [[40, 70], [90, 33]]
    assert batch.image_shape.dtype == np.int64
    assert batch.images[0].sum() == 3 * 40 * 70 and batch.images[1].sum() == 3 * 90 * 33
    assert (batch.images[1, :, :90, :33] == 1).all()
    assert batch.valid == 2
    assert "batch_input_shape" not in batch.metas[0]


def test_collate_to_a_given_size() -> None:
    assert collate([sample(40, 70)], (160, 128)).images.shape == (1, 3, 160, 128)
    # The pipeline's own padding need not fit, the image must.
    assert collate([sample(40, 70)], (40, 70)).images.shape == (1, 3, 40, 70)
    with pytest.raises(DataError, match=r"40x70\.png: 40 x 70 px .* 40 x 64"):
        collate([sample(40, 70)], (40, 64))
    with pytest.raises(DataError, match="no images"):
        collate([])


def test_batches_keep_the_smaller_last_one() -> None:
    batches = list(Batches(Six(), 4))
    assert [len(b.images) for b in batches] == [4, 2] == [b.valid for b in batches]
    assert [len(b.images) for b in Batches(Six(), 2, limit=3)] == [2, 1]


def test_batches_filled_up_say_how_many_count() -> None:
    batches = list(Batches(Six(), 4, fill=True))
    assert [len(b.images) for b in batches] == [4, 4]
    assert [b.valid for b in batches] == [4, 2]
    assert [m["img_shape"][0] for m in batches[1].metas] == [44, 45, 40, 41]
    assert [b.valid for b in Batches(Six(), 4, limit=1, fill=True)] == [1]


def test_a_batch_is_computed_alone() -> None:
    made = Batches(Six(), 4)
    assert [m["img_shape"][0] for m in made[1].metas] == [44, 45]
    for number in (-1, 2):
        with pytest.raises(IndexError, match=f"batch {number} of 2"):
            made[number]


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 0 images"):
        Batches(Six(), 0)


def test_one_channel_is_not_spread_over_three() -> None:
    """numpy would copy it into all three without a word; mmdet raises."""
    grey = Sample(np.ones((1, 8, 8), np.float32), {"img_shape": (8, 8), "filename": "grey.png"})
    colour = Sample(np.ones((3, 8, 8), np.float32), {"img_shape": (8, 8, 3)})
    with pytest.raises(DataError, match=r"grey\.png: 1 channel\(s\) .* the detector takes 3"):
        collate([grey], channels=3)
    with pytest.raises(DataError, match=r"1 channel\(s\) .* the first image has 3"):
        collate([colour, grey])
    assert collate([grey, grey]).images.shape == (2, 1, 8, 8)
