from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.course import MAX_POINTS, Course
from vit_patch_env.pictures.canvas import Canvas
from vit_patch_env.pictures.frame import HEIGHT, WIDTH, Curve, Frame, draw_frame
from vit_patch_env.pictures.of_episode import frame_of
from vit_patch_env.pictures.patches import image_size, mark_dropped, resized


def a_frame(images, grid, mask=None):
    n_patches = grid[0] * grid[1]
    mask = np.arange(n_patches) % 2 == 0 if mask is None else mask
    return Frame(
        images=images,
        patch_mask=mask,
        grid=grid,
        truths=["a cat"] * len(images),
        predictions=["a dog"] * len(images),
        right=[False] * len(images),
        values=np.linspace(-1, 1, n_patches, dtype=np.float32),
        observation="attention_output",
        title="Step 3 · epoch 1",
        progress=0.25,
        curves=[Curve("Loss", "0.5", [0.75, float("nan"), 0.5])],
    )


@pytest.mark.parametrize("level", [0, 60, 128, 255])
def test_dropped_patches_are_told_from_kept_ones_at_any_brightness(level):
    picture = np.full((64, 64, 3), level, dtype=np.uint8)
    mask = np.array([True, False, False, True])
    marked = mark_dropped(picture, mask, (2, 2))
    assert marked.shape == picture.shape
    kept, dropped = marked[1:31, 1:31], marked[1:31, 33:]
    assert (kept == level).all()
    # Two tones that are far apart, of which one at least is far from the image.
    tones = {tuple(tone) for tone in dropped[4:-4, 4:-4].reshape(-1, 3).tolist()}
    assert len(tones) == 2
    darker, lighter = sorted(max(tone) for tone in tones)
    assert lighter - darker >= 40
    assert max(abs(tone[0] - level) for tone in map(np.array, tones)) >= 60


def test_all_kept_pictures_have_lines_between_patches_alone():
    picture = np.full((40, 40, 3), 200, dtype=np.uint8)
    marked = mark_dropped(picture, np.ones(16, dtype=np.bool_), (4, 4))
    changed = (marked != picture).any(axis=2)
    assert np.flatnonzero(changed.all(axis=0)).tolist() == [10, 20, 30]
    assert changed.sum() == 3 * 40 + 3 * 37


@pytest.mark.parametrize(
    ("image", "grid", "expected"),
    [
        ((32, 32), (8, 8), (200, 200)),
        ((224, 224), (14, 14), (196, 196)),
        ((160, 224), (10, 14), (196, 140)),
        ((4096, 4096), (1024, 1024), (200, 200)),
        ((16, 320), (1, 20), (200, 10)),
    ],
)
def test_images_fit_with_whole_pixels_per_patch(image, grid, expected):
    assert image_size(image, grid, 200, 200) == expected


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_of_any_channels_become_rgb(channels):
    assert (
        resized(np.full((channels, 8, 4), 9, dtype=np.uint8), 8, 16).tolist()
        == [[[9] * 3] * 8] * 16
    )


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((8, 1, 32, 32), (8, 8)),
        ((8, 3, 224, 224), (14, 14)),
        ((3, 3, 384, 384), (24, 24)),
        ((8, 3, 160, 224), (10, 14)),
        ((1, 1, 8, 8), (1, 1)),
        ((2, 3, 16, 512), (1, 32)),
        ((2, 1, 512, 16), (512, 16)),
    ],
)
def test_frames_have_one_size_whatever_the_images(shape, grid):
    picture = draw_frame(a_frame(np.full(shape, 7, dtype=np.uint8), grid))
    assert (picture.shape, picture.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert WIDTH <= 1280
    # Nothing is cut off: the margin is empty.
    assert (picture[:, :8] == 255).all()
    assert (picture[:, -8:] == 255).all()


def test_an_unknown_prediction_and_observation_leave_their_places_empty():
    full = a_frame(np.full((2, 1, 8, 8), 7, dtype=np.uint8), (2, 2))
    bare = replace(full, truths=(), predictions=(), right=(), values=None, curves=())
    assert (draw_frame(bare) == 255).mean() > (draw_frame(full) == 255).mean()


def test_a_long_class_name_is_shortened_to_its_place():
    canvas = Canvas(400, 40)
    assert canvas.text(50, 5, "a name of very many words\n" * 9, width=120) <= 120
    drawn = np.flatnonzero((canvas.picture() < 128).any(axis=(0, 2)))
    assert drawn.min() >= 50
    assert drawn.max() < 170


def test_a_frame_shows_the_step_that_was_trained():
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    before = frame_of(env.episode, env.grid, "attention_output")
    assert before.patch_mask.all()
    assert not before.predictions
    batch, observed = env.episode.run.batch, env.episode.values
    mask = np.arange(env.n_patches) < 5
    *_, info = env.step(mask)
    frame = frame_of(env.episode, env.grid, "attention_output")
    n_shown = len(frame.images)
    classes = env.data.classes
    assert list(frame.truths) == [classes[one] for one in batch.labels[:n_shown].tolist()]
    predicted = env.episode.run.trainer.logits.argmax(dim=1)[:n_shown].tolist()
    assert list(frame.predictions) == [classes[one] for one in predicted]
    assert frame.right == [a == b for a, b in zip(frame.truths, frame.predictions, strict=True)]
    assert np.array_equal(frame.patch_mask, mask)
    assert np.array_equal(frame.values, observed)
    assert frame.title == "Step 1 · epoch 1"
    assert [curve.now for curve in frame.curves][:2] == ["5 of 16", f"{info['loss']:.4g}"]
    assert frame_of(env.episode, env.grid, "none+run").values is None


def test_mixed_images_say_the_share_of_their_class():
    env = ViTPatchSelectEnv(**{**TINY, "mixup": 1.0})
    env.reset(seed=0)
    env.step(np.ones(env.n_patches))
    frame = frame_of(env.episode, env.grid, "none")
    assert any("%" in one for one in frame.truths)
    assert len(frame.right) == len(frame.truths)


def test_a_loaded_run_is_drawn_as_the_saved_one(tmp_path):
    envs = [ViTPatchSelectEnv(**TINY, render_mode="rgb_array") for _ in range(2)]
    for env in envs:
        env.reset(seed=0)
    for _ in range(3):
        envs[0].step(np.arange(16) < 5)
    envs[0].save(tmp_path / "run.pt")
    envs[1].load(tmp_path / "run.pt")
    assert np.array_equal(*[env.render() for env in envs])


def test_drawing_changes_nothing_and_takes_no_training_time():
    runs = []
    for mode in (None, "rgb_array"):
        env = ViTPatchSelectEnv(**TINY, render_mode=mode)
        observation, _ = env.reset(seed=0)
        values = [observation]
        for _ in range(4):
            env.render()
            observation, reward, *_ = env.step(np.arange(16) % 3 == 0)
            values += [observation, np.array([reward])]
        runs.append(np.concatenate(values))
        excluded = env.episode.timings.excluded_seconds
        assert (excluded > 0) == (mode is not None)
    assert np.array_equal(*runs)


def test_a_course_stays_small_and_keeps_its_means():
    course = Course()
    n_steps = 3 * MAX_POINTS
    for step in range(n_steps):
        course.add(step, 2 * step, 1)
    assert len(course.points) < MAX_POINTS
    assert len(course.points) * course.stride <= n_steps
    losses = [point.loss for point in course.points]
    assert losses == sorted(losses)
    assert losses[0] == (course.stride - 1) / 2
    assert course.last == (n_steps - 1, 2 * (n_steps - 1), 1)
    other = Course()
    other.load_state_dict(course.state_dict())
    for one in (course, other):
        one.add(7.0, 7.0, 7)
    assert vars(one) == vars(other)


@pytest.mark.parametrize(
    "change", [{"stride": 0}, {"points": np.zeros((MAX_POINTS, 3))}, {"waiting": np.zeros((9, 3))}]
)
def test_a_damaged_course_is_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be in"):
        Course().load_state_dict(Course().state_dict() | change)
