import numpy as np
import pytest

from vit_patch_env.rendering import draw_selection


@pytest.mark.parametrize("channels", [1, 3])
def test_dropped_patches_are_dimmed_and_kept_ones_unchanged(channels):
    images = np.full((2, channels, 8, 8), 200, dtype=np.uint8)
    mask = np.array([True, False, False, True])
    picture = draw_selection(images, mask, zoom=2)
    assert picture.shape == (16, 32, 3)
    assert picture.dtype == np.uint8
    assert (picture[:8, :8] == 200).all()
    assert (picture[8:, 8:16] == 200).all()
    assert (picture[:8, 8:16] < 100).all()
    assert np.array_equal(picture[:, :16], picture[:, 16:])
