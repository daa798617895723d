"""The decoded images in the cache: shown, or removed."""

import time

from rich.console import Console

from vit_patch_env.experiments.options.commands import CacheOptions
from vit_patch_env.experiments.process.output import TextTable, print_lines, print_table
from vit_patch_env.system.cache import LIMIT_VARIABLE, cache_dir, entries, limit_bytes, remove


class CacheView:
    """Shows the decoded images in the cache, or removes them.

    Args:
        options: of the command.
        console: where they are shown.
    """

    def __init__(self, options: CacheOptions, console: Console) -> None:
        self.options = options
        self.console = console

    def prepare(self) -> None:
        """Read the cache's limit.

        Raises:
            ValueError: if it is not a number.
        """
        self.limit = limit_bytes()
        self.cache = cache_dir()

    def run(self) -> None:
        """Show the decoded images, those used last first, or remove those not in use."""
        found = entries(self.cache)
        if self.options.clear:
            removed = [entry for entry in found if remove(entry)]
            self._say(f"Removed {_size(sum(entry.n_bytes for entry in removed))} from {self.cache}")
            for entry in found:
                if entry not in removed:
                    self._say(f"Kept {entry.folder}, which another process is using")
            return
        table = TextTable("", ["images of", "size", "last used"])
        for entry in found:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
            table.add_row(entry.about, _size(entry.n_bytes), when)
        if found:
            print_table(table, self.console)
        total = _size(sum(entry.n_bytes for entry in found))
        self._say(
            f"{total} of at most {_size(self.limit)} ({LIMIT_VARIABLE}) in {self.cache}",
            "Those used longest ago make room for others; vit-patch cache --clear removes all.",
        )

    def _say(self, *lines: str) -> None:
        print_lines(lines, self.console)


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
