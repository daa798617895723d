"""A window, and Gymnasium's videos."""

import importlib.util
import pickle
from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.conftest import TINY
from vit_patch_env import ENV_ID, ViTPatchSelectEnv
from vit_patch_env.pictures import Window
from vit_patch_env.pictures.frame import HEIGHT, WIDTH


@pytest.fixture
def no_screen(monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.mark.usefixtures("no_screen")
def test_human_mode_shows_every_reset_and_step_in_a_window(monkeypatch):
    shown = []
    monkeypatch.setattr(Window, "show", lambda self, picture, fps: shown.append((picture, fps)))
    env = gym.make(ENV_ID, **TINY, render_mode="human")
    pictured = gym.make(ENV_ID, **TINY, render_mode="rgb_array")
    for one in (env, pictured):
        one.reset(seed=0)
    for n_keep in (16, 3):
        assert np.array_equal(shown[-1][0], pictured.render())
        for one in (env, pictured):
            one.step(np.arange(16) < n_keep)
    assert len(shown) == 3
    assert env.render() is None
    assert {fps for _, fps in shown} == {env.metadata["render_fps"]}


@pytest.mark.usefixtures("no_screen")
def test_a_window_has_the_picture_and_can_be_closed_and_opened_again():
    import pygame

    window, picture = Window(), np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture[3, 7] = (10, 20, 30)
    for _ in range(2):
        window.show(picture, 1000)
        assert pygame.display.get_surface().get_size() == (WIDTH, HEIGHT)
        assert tuple(pygame.display.get_surface().get_at((7, 3)))[:3] == (10, 20, 30)
        window.close()
        assert not pygame.display.get_init()
    window.close()


def human_env():
    env = ViTPatchSelectEnv(**TINY, render_mode="human")
    env.metadata = env.metadata | {"render_fps": 1000}
    env.reset(seed=0)
    return env


@pytest.mark.usefixtures("no_screen")
@pytest.mark.parametrize("copied", [deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_an_environment_with_an_open_window_can_be_copied(copied):
    import pygame

    env = human_env()
    copy = copied(env)
    action = np.ones(16)
    assert np.array_equal(copy.step(action)[0], env.step(action)[0])
    env.close()
    assert pygame.display.get_init()  # the copy's
    copy.close()
    assert not pygame.display.get_init()


@pytest.mark.usefixtures("no_screen")
def test_closing_one_environment_leaves_the_others_window_open():
    import pygame

    first, second = human_env(), human_env()
    first.close()
    assert pygame.display.get_init()
    second.step(np.ones(16))
    pygame.quit()  # as Gymnasium's own environments do
    second.step(np.ones(16))
    assert pygame.display.get_init()
    second.close()
    assert not pygame.display.get_init()


@pytest.mark.usefixtures("no_screen")
def test_training_goes_on_without_a_window_that_the_user_closes_until_a_reset():
    import pygame

    env, other = human_env(), human_env()
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    for _ in range(2):
        env.step(np.ones(16))
        other.step(np.ones(16))
        assert not pygame.display.get_init()
    assert env.render() is None
    env.reset()
    assert pygame.display.get_init()
    env.step(np.ones(16))
    assert pygame.display.get_init()
    env.close()
    assert not pygame.display.get_init()


@pytest.mark.usefixtures("no_screen")
def test_events_other_than_the_windows_end_are_left_to_others():
    import pygame

    env = human_env()
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_a))
    env.step(np.ones(16))
    assert pygame.event.get(pygame.KEYDOWN)
    env.close()


@pytest.mark.usefixtures("no_screen")
@pytest.mark.filterwarnings("ignore:.*:UserWarning:gymnasium")
def test_gymnasiums_checker_passes_in_human_mode():
    env = ViTPatchSelectEnv(**TINY, render_mode="human")
    env.metadata = env.metadata | {"render_fps": 1000}
    check_env(env, skip_render_check=True)
    env.close()


def test_without_pygame_human_mode_is_refused_and_the_extra_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "vit_patch_env.pictures.window.find_spec",
        lambda name: None if name == "pygame" else find(name),
    )
    with pytest.raises(ValueError, match=r"pip install 'vit-patch-env\[human\]', got none$"):
        ViTPatchSelectEnv(**TINY, render_mode="human")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of moviepy
# Its reader leaves the pipes of the process that decodes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_gymnasium_records_videos(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(
        gym.make(ENV_ID, **TINY, render_mode="rgb_array"), str(tmp_path / "videos"), video_length=4,
        disable_logger=True,
    )  # fmt: skip
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.ones(16))
    env.close()
    (video,) = tmp_path.glob("videos/*.mp4")
    frames = pytest.importorskip("imageio_ffmpeg").read_frames(str(video))
    described = next(frames)
    assert described["size"] == (WIDTH, HEIGHT)
    assert described["fps"] == env.metadata["render_fps"]
    assert len(list(frames)) == 5  # of the reset, and of each step
