"""The runs of a comparison and their dependencies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.compare.method_options import method_options
from vit_patch_env.experiments.compare.methods import Method
from vit_patch_env.experiments.compare.results import FULL, is_timed, timed_budget
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import RUNS, RunFolder

State = Literal["waiting", "running", "done", "failed"]


@dataclass(eq=False)
class Entry:
    """A run of a method with a seed, and its state.

    Attributes:
        method: its key.
        kind: the method.
        followed: the entry whose run determines how many patches to keep.
        timed: the entry whose run determines the budget of seconds.
        note: for the user: the accuracy of a finished run, or why it failed.
        attempts: how often it was started in this call.
        seconds: duration so far, for an estimate of the time left.
        progress: share of its budget used, as of its last epoch.
    """

    method: str
    kind: Method
    seed: int
    folder: RunFolder
    followed: "Entry | None" = None
    timed: "Entry | None" = None
    state: State = "waiting"
    note: str = ""
    attempts: int = 0
    seconds: float = 0.0
    progress: float = 0.0

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.method}__{self.seed}"

    @property
    def needed(self) -> "list[Entry]":
        """The entries whose runs must be finished first."""
        return [entry for entry in (self.followed, self.timed) if entry is not None]

    def options(self, env: EnvConfig, checkpoint_every: str) -> TrainOptions:
        """The options of its run, in a comparison with this environment."""
        if is_timed(vars(env)):
            env = replace(env, **timed_budget(self.timed.folder if self.timed else None))
        followed = self.followed.folder if self.followed else None
        options = method_options(self.kind, self.seed, env, self.folder.path, followed)
        return replace(options, checkpoint_every=checkpoint_every)


def make_entries(
    path: Path, methods: Mapping[str, Method], seeds: Sequence[int], env: EnvConfig
) -> list[Entry]:
    """All runs, seed by seed, each after those that it needs.

    Args:
        path: folder of the comparison.
        methods: to compare, by their keys.
        seeds: of the runs.
        env: what all runs share.
    """
    entries: dict[tuple[str, int], Entry] = {}
    timed = FULL if is_timed(vars(env)) else None
    ordered = sorted(methods, key=lambda name: (name != timed, methods[name].follows is not None))
    for seed in seeds:
        for name in ordered:
            folder = RunFolder(path / RUNS / f"{name}__{seed}")
            entry = Entry(name, methods[name], seed, folder)
            followed = methods[name].follows
            entry.followed = entries[followed, seed] if followed else None
            entry.timed = entries[timed, seed] if timed and name != timed else None
            entries[name, seed] = entry
    return list(entries.values())
