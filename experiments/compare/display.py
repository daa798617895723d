"""Progress of a comparison on the console: a table of methods and seeds."""

from rich.console import Console, Group
from rich.live import Live

from vit_patch_env.experiments.compare.entries import Entry
from vit_patch_env.experiments.process.output import TextTable, print_line, print_table
from vit_patch_env.experiments.runs.display import LiveDisplay


class CompareDisplay(LiveDisplay):
    """A live table of each open set of runs on a terminal; elsewhere one line per run.

    Args:
        n_jobs: runs in parallel.
        console: to print to.
    """

    def __init__(self, n_jobs: int, console: Console) -> None:
        self.n_jobs = n_jobs
        self.console = console
        self.live = Live(console=console, refresh_per_second=2)
        self._open: dict[str, list[Entry]] = {}

    def begin(self, title: str, entries: list[Entry]) -> None:
        """Show a set of runs, if it is not shown.

        Args:
            title: of the set.
            entries: its runs, whose state changes.
        """
        self._open.setdefault(title, entries)

    def end(self, title: str, entries: list[Entry]) -> None:
        """Print a set's table above those that still change, also if nothing was to be done."""
        self._open.pop(title, None)
        self.update()
        if self.console.is_terminal:
            print_table(self.table(title, entries), self.console)

    def update(self) -> None:
        """Show the progress of the runs."""
        if self.console.is_terminal:
            self.live.update(Group(*(self.table(*one) for one in self._open.items())))

    def show_end(self, title: str, entry: Entry) -> None:
        """Print a line for a run that has ended, if no table is shown."""
        if not self.console.is_terminal:
            note = f"{entry.note} on all test images" if entry.state == "done" else entry.note
            of, summary = f"{title}: " if title else "", self.summary(self._open[title])
            print_line(
                f"{of}{entry.name} {entry.state} after {entry.seconds:.0f} s: {note}. {summary}",
                self.console,
            )

    def table(self, title: str, entries: list[Entry]) -> TextTable:
        """One row per method, one column per seed: test accuracy, progress or state."""
        seeds = list(dict.fromkeys(entry.seed for entry in entries))
        titles = {entry.method: entry.kind.title for entry in entries}
        cells = {(entry.method, entry.seed): self._cell(entry) for entry in entries}
        columns = [f"seed {seed}" for seed in seeds]
        table = TextTable(title or "Test accuracy", ["method"], columns)
        table.add_caption(self.summary(entries))
        for method, of_method in titles.items():
            table.add_row(of_method, *(cells[method, seed] for seed in seeds))
        return table

    def summary(self, entries: list[Entry]) -> str:
        """Numbers of runs by state, and the estimated time left."""
        counts = dict.fromkeys(("done", "running", "failed", "waiting"), 0)
        for entry in entries:
            counts[entry.state] += 1
        parts = [f"{count} {state}" for state, count in counts.items() if count]
        left = self.seconds_left(entries)
        if left is not None and len(self._open) < 2:  # another set shares the jobs
            parts.append(f"about {_duration(left)} left")
        return ", ".join(parts)

    def seconds_left(self, entries: list[Entry]) -> float | None:
        """An estimate from the runs' progress and the time that runs of the same method took.

        Returns:
            Seconds; None before the first run is done, and at the end.
        """
        known: dict[str, list[float]] = {}
        for entry in entries:
            if entry.state == "done":
                known.setdefault(entry.method, []).append(entry.seconds)
        all_seconds = [value for values in known.values() for value in values]
        left = [entry for entry in entries if entry.state in ("waiting", "running")]
        if not all_seconds or not left:
            return None
        mean = sum(all_seconds) / len(all_seconds)
        work = 0.0
        for entry in left:
            seconds = known.get(entry.method, [mean])
            work += sum(seconds) / len(seconds) * (1 - entry.progress)
        return work / min(self.n_jobs, len(left))

    def _cell(self, entry: Entry) -> tuple[str, str]:
        """Text and style of a run."""
        return {
            "waiting": ("-", "dim"),
            "running": (f"at {entry.progress:.0%}", ""),
            "done": (entry.note, ""),
            "failed": ("failed", "red"),
        }[entry.state]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
