"""Images of any size and shape at the size in which they are recorded."""

import tracemalloc

import numpy as np
import pytest

from data_generation.generator.frames import FrameFitter


@pytest.mark.parametrize(("height", "width"), [(60_000, 1), (1, 60_000), (60_000, 3), (3, 50_000)])
def test_an_image_as_thin_as_a_thread_takes_little_memory(height, width):
    """Padded before it is shrunk, it would take 10 GB."""
    image = np.full((height, width, 3), 200, np.uint8)
    tracemalloc.start()
    frame = FrameFitter(16, 32)(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert frame.shape == (3, 16, 32)
    # Whole, between black bars.
    shown = frame[0] > 100
    assert shown.any(axis=1).all() if height > width else shown.any(axis=0).all()
    assert shown.mean() <= 0.1


def test_images_of_many_sizes_take_the_memory_of_few():
    fit = FrameFitter(16, 16)
    tracemalloc.start()
    for size in range(400, 430):
        assert (fit(np.full((size, size, 3), size % 256, np.uint8)) == size % 256).all()
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 6 * 430 * 430 * 3
