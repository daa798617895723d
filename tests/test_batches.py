import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as transforms

from vit_patch_env.data.batches import BatchStream, Normalize, Position, crop_and_flip

CPU = torch.device("cpu")
UNCHANGED = Normalize((0.0,), (1 / 255,), CPU)


def numbered_images(n_images: int = 10, channels: int = 1) -> torch.Tensor:
    """Every image is filled with its index."""
    index = torch.arange(n_images, dtype=torch.uint8).view(-1, 1, 1, 1)
    return index.expand(-1, channels, 8, 8).contiguous()


def make_stream(n_images: int = 10, batch_size: int = 3, seed: int = 0, **kwargs) -> BatchStream:
    images = numbered_images(n_images)
    return BatchStream(
        images, torch.arange(n_images), UNCHANGED, batch_size=batch_size, seed=seed, **kwargs
    )


@given(
    st.integers(0, 8), st.integers(0, 8), st.booleans(), st.integers(1, 3), st.integers(0, 2**32)
)
def test_crop_and_flip_equals_torchvision_image_by_image(top, left, flip, channels, seed):
    images = torch.randint(
        256, (2, channels, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    offsets = torch.tensor([[top, left], [left, top]])
    ours = crop_and_flip(images, offsets, torch.tensor([flip, not flip]), padding=4)
    for image, (y, x), mirrored, result in zip(
        images, offsets.tolist(), (flip, not flip), ours, strict=True
    ):
        expected = transforms.crop(transforms.pad(image, [4]), y, x, 8, 8)
        if mirrored:
            expected = transforms.horizontal_flip(expected)
        assert torch.equal(result, expected)


def test_normalize_gives_mean_zero_and_deviation_one():
    images = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8)
    values = images.float().movedim(1, 0).flatten(1) / 255
    normalize = Normalize(tuple(values.mean(1).tolist()), tuple(values.std(1).tolist()), CPU)
    result = normalize(images).movedim(1, 0).flatten(1)
    assert torch.allclose(result.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(result.std(1), torch.ones(3), atol=1e-5)
    assert torch.equal(normalize.inverse(normalize(images)), images)


def test_normalize_only_centres_a_channel_without_variation():
    images = torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)
    assert torch.allclose(Normalize((0.2,), (0.0,), CPU)(images), torch.zeros(()), atol=1e-6)


def test_an_epoch_shows_every_image_at_most_once():
    stream = make_stream()
    seen = torch.cat([stream.next().labels for _ in range(stream.batches_per_epoch)])
    assert len(seen) == len(set(seen.tolist())) == 9


def test_images_and_labels_stay_together():
    stream = make_stream(crop_padding=0, flip=False)
    for _ in range(7):
        images, labels = stream.next()
        assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_epochs_differ():
    stream = make_stream(n_images=100, batch_size=100)
    assert not torch.equal(stream.next().labels, stream.next().labels)


def test_same_seed_same_stream_if_the_global_generators_change():
    first = make_stream(seed=5)
    expected = [first.next() for _ in range(8)]
    second = make_stream(seed=5)
    for images, labels in expected:
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002
        batch = second.next()
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.labels, labels)


def test_other_seeds_give_other_streams():
    one, other = (make_stream(n_images=100, batch_size=100, seed=seed).next() for seed in (1, 2))
    assert not torch.equal(one.labels, other.labels)


def test_stream_resumes_at_any_position():
    stream = make_stream()
    for _ in range(4):
        stream.next()
    position = stream.position
    assert position == Position(epoch=1, batch=1)
    expected = [stream.next() for _ in range(5)]
    resumed = make_stream()
    resumed.position = position
    for images, labels in expected:
        batch = resumed.next()
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.labels, labels)


@pytest.mark.parametrize("position", [(-1, 0), (0, 3), (0, -1)])
def test_positions_beyond_the_stream_are_refused(position):
    with pytest.raises(ValueError, match="must be in"):
        make_stream().position = position


def test_without_flip_no_image_is_mirrored():
    ramp = torch.arange(8, dtype=torch.uint8).expand(20, 1, 8, 8).contiguous()
    for flip in (False, True):
        stream = BatchStream(
            ramp, torch.zeros(20).long(), UNCHANGED, batch_size=20, seed=0, crop_padding=0,
            flip=flip,
        )  # fmt: skip
        mirrored = (stream.next().images[:, 0, 0, 0] == 7).sum()
        assert (0 < mirrored < 20) == flip


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"batch_size must be in \[1, 10\], got 11"):
        make_stream(batch_size=11)
