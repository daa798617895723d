"""Where downloads, decoded images and compiled kernels are kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache folder for this package: below XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vit-patch-env"
