"""Folders of the user, also where there is no home: in a container, under a user without a name."""

import getpass
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from vit_patch_env.checks import InputError

CACHES = ".cache"
"""Subfolder of a home for caches."""


def private_folder() -> Path:
    """A folder in the temporary directory that only this user can use; made at the first call.

    Raises:
        InputError: if another user has made it, or there is no temporary directory.
    """
    needed = "set HOME, or XDG_CACHE_HOME, to a folder that can be written"
    try:
        folder = Path(tempfile.gettempdir()) / f"vit-patch-env-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InputError(f"there is no folder for caches ({error.strerror}): {needed}") from error
    mine = found.st_uid == os.getuid() and not found.st_mode & 0o077
    if not (stat.S_ISDIR(found.st_mode) and mine):
        raise InputError(f"expected a folder of this user alone, got {folder}: {needed}")
    return folder


def is_usable(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    if not folder.is_absolute():  # ~ without a home
        return False
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@contextmanager
def usable_home(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Within the block, libraries find a home, a name of the user, and folders for their caches.

    Without a home it is `private_folder`. With one that cannot be written, only the caches of
    libraries that need one are there. Variables that are set are left alone.

    Args:
        environ: the environment variables, which are as before after the block.

    Raises:
        InputError: as `private_folder`, where it is needed.
    """
    added = _missing(environ)
    before = {name: environ.get(name) for name in added}
    environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value


def _missing(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that libraries need to find their folders."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  (pathlib's raises an error without a home)
    added = {}
    if not home.is_absolute():
        added["HOME"] = str(private_folder())
    elif not is_usable(home):
        caches = {"XDG_CACHE_HOME": CACHES, "MPLCONFIGDIR": "matplotlib"}
        missing = {name: folder for name, folder in caches.items() if name not in environ}
        added = {name: str(private_folder() / folder) for name, folder in missing.items()}
    if not _has_name():
        added["LOGNAME"] = str(os.getuid())  # where the name of the user is looked up
    return added


def _has_name() -> bool:
    try:
        return bool(getpass.getuser())
    except (KeyError, OSError):  # no passwd entry: before Python 3.13, and since
        return False
