"""A comparison whose files are copied to storage and from it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vit_patch_env.experiments.cluster.storage import Storage
from vit_patch_env.experiments.compare.results import COMPARE
from vit_patch_env.experiments.run_folder.folder import RESULT, RunFolder


def stored_configuration(storage: Storage) -> Path | None:
    """A copy of storage's compare.json, to be removed; None if it has none.

    Raises:
        OSError: if it cannot be copied.
    """
    path = storage.folder / COMPARE
    if not storage.has(path):
        return None
    copy = storage.folder / f".stored-{COMPARE}"
    storage.copy(path, copy)
    return copy


def exchange_finished(storage: Storage, runs: Iterable[RunFolder]) -> None:
    """Copy finished runs from storage, and to it, so that either has those of both.

    If there is no comparison here yet, its other files are copied as well.

    Raises:
        OSError: if one cannot be copied.
    """
    if not (storage.folder / COMPARE).exists():
        storage.fetch(storage.folder)
    for folder in runs:
        run = folder.path.absolute()
        is_stored = storage.has(run / RESULT)
        if is_stored and not folder.is_finished:
            storage.fetch(run)
        elif folder.is_finished and not is_stored:
            storage.send(run)


def together(here: dict[str, Any], there: dict[str, Any]) -> dict[str, Any]:
    """What compare.json has of the methods and seeds of either, in order."""
    merged = {**there, **here}
    for name in {"methods", "seeds"} & merged.keys():
        merged[name] = list(dict.fromkeys([*here.get(name, []), *there.get(name, [])]))
    for name in {"titles", "groups", "sources", "agents"} & merged.keys():
        merged[name] = {**there.get(name, {}), **here.get(name, {})}
    return merged
