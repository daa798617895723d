"""A window that shows pictures, for `render_mode="human"`."""

import os
import warnings
from importlib.util import find_spec
from typing import Any, ClassVar
from weakref import WeakSet

from vit_patch_env.checks import InputError
from vit_patch_env.pictures.canvas import Picture


class Window:
    """A window of pygame, opened with the first picture.

    A process has one such window, as pygame has only one: those that are open at the same time
    show their pictures in it in turn, and it closes with the last of them. If the user closes it,
    all of them show nothing until they are opened again.

    A copy, also a pickled one, is not open.

    Raises:
        InputError: if pygame is not installed.
    """

    _showing: ClassVar[WeakSet["Window"]] = WeakSet()
    """Those that are open."""

    def __init__(self) -> None:
        check_can_be_opened()
        self._clock: Any = None
        self._closed_by_user = False

    @property
    def is_closed_by_user(self) -> bool:
        """Whether the user has closed it, so that pictures are not shown."""
        return self._closed_by_user

    def show(self, picture: Picture, fps: int) -> None:
        """Show a picture, at most `fps` of them in a second, unless the user has closed the window.

        Args:
            picture: (height, width, 3).
            fps: pictures per second; waits if the last one is too recent.
        """
        if self._closed_by_user:
            return
        pygame = _pygame()
        # Not kept: what else uses pygame may have closed its window, or opened another.
        screen = pygame.display.get_surface() if pygame.display.get_init() else None
        if screen is not None and self in self._showing and pygame.event.get(pygame.QUIT):
            self._close_all()
            return
        size = (picture.shape[1], picture.shape[0])
        if screen is None or screen.get_size() != size:
            pygame.display.init()
            screen = pygame.display.set_mode(size)
            pygame.display.set_caption("vit-patch-env")
        if self._clock is None:
            self._clock = pygame.time.Clock()
        self._showing.add(self)
        screen.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(fps)

    def reopen(self) -> None:
        """Show pictures again if the user has closed the window."""
        self._closed_by_user = False

    def close(self) -> None:
        """Close the window; a later picture opens it again."""
        self._closed_by_user = False
        if self in self._showing:
            self._showing.discard(self)
            if not self._showing:
                _pygame().display.quit()

    def _close_all(self) -> None:
        """Close the window that the user has closed."""
        for window in self._showing:
            window._closed_by_user = True
        self._showing.clear()
        _pygame().display.quit()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has: neither the clock, which cannot be copied, nor the window."""
        return {**vars(self), "_clock": None}


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
