"""A comparison whose files are copied to storage and from it."""

from collections.abc import Iterable
from pathlib import Path

from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.cluster.storage import Storage
from vit_patch_env.experiments.compare.entries import Entry
from vit_patch_env.experiments.compare.results import COMPARE
from vit_patch_env.experiments.run_folder.folder import RESULT
from vit_patch_env.reading import read_json


def stored(url: str, folder: Path, entries: Iterable[Entry]) -> Storage:
    """The storage of a comparison, after what was finished elsewhere has been copied from it.

    Args:
        url: of the storage.
        folder: of the comparison, which is locked.
        entries: its runs.

    Raises:
        ArgumentError: for storage that cannot be used, or that holds another comparison.
        OSError: if something cannot be copied.
    """
    folder = folder.absolute()
    storage = Storage(url, folder)
    storage.check()
    if storage.has(folder / COMPARE):
        if not (folder / COMPARE).exists():
            storage.fetch(folder)
        elif storage.read_json(folder / COMPARE).get("env") != read_json(folder / COMPARE)["env"]:
            raise ArgumentError(
                "storage", f"must be without another comparison than that of {folder}, got {url}"
            )
    for entry in entries:
        run = entry.folder.path.absolute()
        if not entry.folder.is_finished and storage.has(run / RESULT):
            storage.fetch(run)
    return storage
