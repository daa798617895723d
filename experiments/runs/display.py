"""The live display of a run, and the tables at its end."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from vit_patch_env.checks import counted
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


class Display(LiveDisplay):
    """A live progress line on a terminal; elsewhere one line per epoch.

    Args:
        console: to print to.
        n_epochs: of the run; None if its budget is not epochs, as it is unknown then.
    """

    def __init__(self, console: Console, n_epochs: int | None) -> None:
        self.console = console
        self.n_epochs = n_epochs
        self.latest: EpochMetrics | None = None
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self.task = self.progress.add_task("training", total=1.0, epoch=self._epoch(1))
        self.metrics = Text("", no_wrap=True)
        self.live = Live(Group(self.progress, self.metrics), console=console, refresh_per_second=4)

    def show_step(self, step: StepMetrics) -> None:
        """Update the progress bar and the metrics beside it."""
        metrics = [f"loss {step.info['loss']:.3f}", f"{step.n_selected_mean:.1f} patches"]
        if step.epsilon is not None:
            metrics.append(f"ε {step.epsilon:.2f}")
        if self.latest is not None:
            metrics.append(f"val accuracy {self.latest.val_accuracy:.1%}")
            metrics.append(f"{self.latest.images_per_second:.0f} images/s")
        self.metrics.plain = "  ".join(metrics)
        epoch = self._epoch(step.info["epoch"] + 1)
        self.progress.update(self.task, completed=step.info["progress"], epoch=epoch)

    def show_epoch(self, epoch: EpochMetrics) -> None:
        """Store the epoch's metrics for the live display, or print them if there is none."""
        self.latest = epoch
        if not self.console.is_terminal:
            epsilon = "" if epoch.epsilon is None else f", ε {epoch.epsilon:.2f}"
            used = f" ({epoch.progress:.0%})" if self.n_epochs is None else ""
            skipped = f", {counted(epoch.n_skipped, 'step')} skipped" if epoch.n_skipped else ""
            self.console.print(
                f"epoch {self._epoch(epoch.epoch)}{used}: loss {epoch.train_loss:.3f}, "
                f"val accuracy {epoch.val_accuracy:.1%}, {epoch.n_selected:.1f} patches{epsilon}, "
                f"{epoch.images_per_second:.0f} images/s{skipped}",
                highlight=False,
                soft_wrap=True,
            )

    def _epoch(self, epoch: int) -> str:
        return f"{epoch}" if self.n_epochs is None else f"{epoch}/{self.n_epochs}"


def show_result(result: dict[str, Any], console: Console) -> None:
    """Print the test metrics, on all patches and on the agent's."""
    table = Table(title="Test images", title_justify="left")
    table.add_column("The ViT sees")
    columns = ("loss", "accuracy", "precision", "recall", "f1")
    for column in columns:
        table.add_column(column.capitalize() if column != "f1" else "F1", justify="right")
    for name, label in (("all_patches", "all patches"), ("agent_patches", "the agent's patches")):
        metrics = result["test"][name]
        table.add_row(label, *(_number(column, metrics[column]) for column in columns))
    console.print(table)


def show_cost(result: dict[str, Any], n_patches: int, console: Console) -> None:
    """Print the run's times and number of patches."""
    seconds = result["train_seconds"] + result["agent_seconds"]
    skipped = result["n_skipped"]
    note = ""
    if skipped:
        note = f" {counted(skipped, 'step')} changed nothing, as the gradient was not finite."
    console.print(
        f"Trained for {counted(result['n_steps'], 'step')} in {seconds:.1f} s on "
        f"{result['device_name']} "
        f"({result['precision']}): {result['train_seconds']:.1f} s the ViT, "
        f"{result['agent_seconds']:.1f} s the agent; "
        f"{result['n_selected_mean']:.1f} of {counted(n_patches, 'patch')} per step on "
        f"average.{note}",
        highlight=False,
        soft_wrap=True,
    )


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4f}" if name == "loss" else f"{value:.2%}"
