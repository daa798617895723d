"""A window that shows pictures, for `render_mode="human"`."""

import os
import warnings
from importlib.util import find_spec
from typing import Any

from vit_patch_env.checks import InputError
from vit_patch_env.pictures.canvas import Picture


class Window:
    """A window of pygame, opened with the first picture.

    Raises:
        InputError: if pygame is not installed.
    """

    def __init__(self) -> None:
        check_can_be_opened()
        self._surface: Any = None
        self._clock: Any = None

    def show(self, picture: Picture, fps: int) -> None:
        """Show a picture, at most `fps` of them in a second.

        Args:
            picture: (height, width, 3).
            fps: pictures per second; waits if the last one is too recent.
        """
        pygame = _pygame()
        if self._surface is None:
            pygame.display.init()
            self._surface = pygame.display.set_mode((picture.shape[1], picture.shape[0]))
            self._clock = pygame.time.Clock()
            pygame.display.set_caption("vit-patch-env")
        surface = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        self._surface.blit(surface, (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(fps)

    def close(self) -> None:
        """Close the window; a later picture opens it again."""
        if self._surface is not None:
            _pygame().display.quit()
        self._surface = self._clock = None


def check_can_be_opened() -> None:
    """Refuse a window without what draws it.

    Raises:
        InputError: naming the extra that has it.
    """
    if find_spec("pygame") is None:
        raise InputError(
            "expected pygame for render_mode human: pip install 'vit-patch-env[human]', got none"
        )


def _pygame() -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with warnings.catch_warnings():  # about the setuptools that it uses
        warnings.simplefilter("ignore")
        import pygame
    return pygame
