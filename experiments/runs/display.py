"""What a person watches while a run trains, and the table at its end."""

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

from vit_patch_env.experiments.run_folder.tables import EpochMetrics
from vit_patch_env.experiments.runs.sums import StepMetrics


class OnTerminal:
    """Shows its `live` part while it is entered, if its console is a terminal."""

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


class Display(OnTerminal):
    """A live progress line on a terminal; elsewhere one line per epoch.

    Args:
        console: where it is shown.
        n_epochs: of the run; None where its budget is another, and nobody knows.
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
        self.figures = Text("", no_wrap=True)
        self.live = Live(Group(self.progress, self.figures), console=console, refresh_per_second=4)

    def show_step(self, step: StepMetrics) -> None:
        """Move the bar on."""
        figures = [f"loss {step.info['loss']:.3f}", f"{step.n_selected_mean:.1f} patches"]
        if step.epsilon is not None:
            figures.append(f"ε {step.epsilon:.2f}")
        if self.latest is not None:
            figures.append(f"val accuracy {self.latest.val_accuracy:.1%}")
            figures.append(f"{self.latest.images_per_second:.0f} images/s")
        self.figures.plain = "  ".join(figures)
        epoch = self._epoch(step.info["epoch"] + 1)
        self.progress.update(self.task, completed=step.info["progress"], epoch=epoch)

    def show_epoch(self, epoch: EpochMetrics) -> None:
        """Keep the epoch's figures for the bar; print them where there is none."""
        self.latest = epoch
        if not self.console.is_terminal:
            epsilon = "" if epoch.epsilon is None else f", ε {epoch.epsilon:.2f}"
            used = f" ({epoch.progress:.0%})" if self.n_epochs is None else ""
            skipped = f", {epoch.n_skipped} steps skipped" if epoch.n_skipped else ""
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
    """Print the test figures, on all patches and on the agent's."""
    table = Table(title="Test images", title_justify="left")
    table.add_column("The ViT sees")
    columns = ("loss", "accuracy", "precision", "recall", "f1")
    for column in columns:
        table.add_column(column.capitalize() if column != "f1" else "F1", justify="right")
    for name, label in (("all_patches", "all patches"), ("agent_patches", "the agent's patches")):
        figures = result["test"][name]
        table.add_row(label, *(_number(column, figures[column]) for column in columns))
    console.print(table)


def show_cost(result: dict[str, Any], n_patches: int, console: Console) -> None:
    """Print what the run cost and used."""
    seconds = result["train_seconds"] + result["agent_seconds"]
    skipped = result["n_skipped"]
    said = f" {skipped} steps changed nothing, as their gradient was not finite." if skipped else ""
    console.print(
        f"Trained for {result['n_steps']} steps in {seconds:.1f} s on {result['device_name']} "
        f"({result['precision']}): {result['train_seconds']:.1f} s the ViT, "
        f"{result['agent_seconds']:.1f} s the agent; "
        f"{result['n_selected_mean']:.1f} of {n_patches} patches per step on average.{said}",
        highlight=False,
        soft_wrap=True,
    )


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4f}" if name == "loss" else f"{value:.2%}"
