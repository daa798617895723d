"""The live display of a run, and the tables at its end."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vit_patch_env.checks import counted
from vit_patch_env.experiments.process.output import TextTable, print_line, print_table
from vit_patch_env.experiments.run_folder.tables import EpochMetrics
from vit_patch_env.experiments.runs.epoch_sums import StepMetrics


class LiveDisplay:
    """A context manager that shows `live` if its console is a terminal."""

    console: Console
    live: Live

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()


LINE_SECONDS = 60.0
"""Where there is no terminal, an epoch that takes longer has a line after this time."""


class PhaseDisplay(LiveDisplay):
    """A live progress bar on a terminal of what is done with images, one phase after the other.

    Elsewhere a line per minute.

    Args:
        console: to print to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self.live = Live(self.progress, console=console, refresh_per_second=4, transient=True)
        self._line_due = time.monotonic() + LINE_SECONDS

    def phase(self, name: str, n_images: int) -> Callable[[int], None]:
        """Begin a phase; what is returned is called with numbers of images that are done.

        Args:
            name: such as "Observing".
            n_images: of the phase.
        """
        for former in self.progress.task_ids:
            self.progress.remove_task(former)
        task = self.progress.add_task(name, total=n_images)

        def advance(n_done: int) -> None:
            self.progress.advance(task, n_done)
            if not self.console.is_terminal and time.monotonic() >= self._line_due:
                self._line_due = time.monotonic() + LINE_SECONDS
                done = self.progress.tasks[0].completed
                print_line(f"{name}: {done:,.0f} of {counted(n_images, 'image')}", self.console)

        return advance


class Display(LiveDisplay):
    """Live progress bars of the run and of its epoch on a terminal.

    Elsewhere one line per epoch, and one per minute in an epoch that takes longer.

    Args:
        console: to print to.
        n_epochs: of the run; None if its budget is not epochs, as it is unknown then.
        steps_per_epoch: of the run.
    """

    def __init__(self, console: Console, n_epochs: int | None, steps_per_epoch: int) -> None:
        self.console = console
        self.n_epochs = n_epochs
        self.steps_per_epoch = steps_per_epoch
        self.latest: EpochMetrics | None = None
        self.progress = Progress(
            SpinnerColumn(),  # moves during the first step, which may be long
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("step {task.fields[step]}"),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self.task = self.progress.add_task(
            "training", total=1.0, epoch=self._epoch(1), step=f"0/{steps_per_epoch}"
        )
        self.metrics = Text("", no_wrap=True)
        self._line_due = time.monotonic() + LINE_SECONDS
        self.live = Live(Group(self.progress, self.metrics), console=console, refresh_per_second=4)

    def show_step(self, step: StepMetrics) -> None:
        """Update the progress bar and the metrics beside it."""
        metrics = [f"loss {step.info['loss']:.3f}", f"{step.n_selected_mean:.1f} patches"]
        if step.epsilon is not None:
            metrics.append(f"ε {step.epsilon:.2f}")
        if self.latest is not None:
            metrics.append(f"val accuracy {self.latest.val_accuracy:.1%}")
            metrics.append(f"{self.latest.images_per_second:.0f} images/s")
        n_epochs, n_steps = divmod(step.step - 1, self.steps_per_epoch)
        epoch, in_epoch = self._epoch(n_epochs + 1), f"{n_steps + 1}/{self.steps_per_epoch}"
        if self.console.is_terminal:
            self.metrics.plain = "  ".join(metrics)
            progress = step.info["progress"]
            self.progress.update(self.task, completed=progress, epoch=epoch, step=in_epoch)
        elif time.monotonic() >= self._line_due:
            self._line_due = time.monotonic() + LINE_SECONDS
            print_line(f"epoch {epoch}, step {in_epoch}: {', '.join(metrics)}", self.console)

    def show_epoch(self, epoch: EpochMetrics) -> None:
        """Store the epoch's metrics for the live display, or print them if there is none."""
        self.latest = epoch
        self._line_due = time.monotonic() + LINE_SECONDS
        if not self.console.is_terminal:
            epsilon = "" if epoch.epsilon is None else f", ε {epoch.epsilon:.2f}"
            used = f" ({epoch.progress:.0%})" if self.n_epochs is None else ""
            skipped = f", {counted(epoch.n_skipped, 'step')} skipped" if epoch.n_skipped else ""
            print_line(
                f"epoch {self._epoch(epoch.epoch)}{used}: loss {epoch.train_loss:.3f}, "
                f"val accuracy {epoch.val_accuracy:.1%}, {epoch.n_selected:.1f} patches{epsilon}, "
                f"{epoch.images_per_second:.0f} images/s{skipped}",
                self.console,
            )

    def _epoch(self, epoch: int) -> str:
        return f"{epoch}" if self.n_epochs is None else f"{epoch}/{self.n_epochs}"


def show_result(result: dict[str, Any], console: Console) -> None:
    """Print the test metrics, on all patches and on the agent's."""
    columns = ("loss", "accuracy", "precision", "recall", "f1")
    table = TextTable("Test images", ["The ViT sees"], [name.capitalize() for name in columns])
    for name, label in (("all_patches", "all patches"), ("agent_patches", "the agent's patches")):
        metrics = result["test"][name]
        table.add_row(label, *(_number(column, metrics[column]) for column in columns))
    print_table(table, console)


def show_cost(result: dict[str, Any], n_patches: int, console: Console) -> None:
    """Print the run's times and number of patches."""
    seconds = result["train_seconds"] + result["agent_seconds"]
    skipped = result["n_skipped"]
    note = ""
    if skipped:
        note = f" {counted(skipped, 'step')} changed nothing, as the gradient was not finite."
    print_line(
        f"Trained for {counted(result['n_steps'], 'step')} in {seconds:.1f} s on "
        f"{result['device_name']} "
        f"({result['precision']}): {result['train_seconds']:.1f} s the ViT, "
        f"{result['agent_seconds']:.1f} s the agent; "
        f"{result['n_selected_mean']:.1f} of {counted(n_patches, 'patch')} per step on "
        f"average.{note}",
        console,
    )


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4f}" if name == "loss" else f"{value:.2%}"
