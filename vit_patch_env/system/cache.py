"""Where downloads, decoded images and compiled kernels are kept."""

from pathlib import Path

from platformdirs import user_cache_path


def cache_dir() -> Path:
    """The user's cache folder for this package; on Linux in XDG_CACHE_HOME or ~/.cache."""
    return user_cache_path("vit-patch-env", appauthor=False)
