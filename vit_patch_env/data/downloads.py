"""Whether images may be downloaded, and what is said where they are missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from vit_patch_env.checks import InputError
from vit_patch_env.data.items import one_line
from vit_patch_env.system.shown import escaped

_MAY_DOWNLOAD = ContextVar("may_download", default=True)


def may_download() -> bool:
    """Whether images that are missing may be downloaded."""
    return _MAY_DOWNLOAD.get()


@contextmanager
def without_downloads() -> Iterator[None]:
    """Download nothing within the block, as where a folder is named by a file, not by the user."""
    before = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(before)


def missing_files(name: str, root: Path, error: Exception) -> InputError:
    """The error for a data set whose files are missing in a folder, or damaged.

    Args:
        name: of the data set.
        root: folder that they were expected in.
        error: that reading them raised.
    """
    if may_download():
        return InputError(
            f"expected the files of {name} in {escaped(root)} or a network to download them from, "
            f"got: {one_line(error)}"
        )
    return InputError(
        f"expected the files of {name} in {escaped(root)}, where the run had them, got none that "
        "can be read; --data-dir gives another folder, to which they are downloaded if necessary"
    )
