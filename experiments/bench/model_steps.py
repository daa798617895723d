"""`vit-patch bench --model`: training steps of a model on all, half and a quarter of the patches.

Beside them the library's own module, forward and backward on all patches, and timm's own
`patch_drop_rate`. All in one process, with the same loop, optimizer and precision; interleaved.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from vit_patch_env.arguments import declared
from vit_patch_env.checks import counted
from vit_patch_env.config import EnvConfig
from vit_patch_env.config.model import SizeConfig
from vit_patch_env.experiments.bench.measuring import seconds
from vit_patch_env.experiments.options.commands import BenchOptions
from vit_patch_env.experiments.process.output import TextTable, print_line, print_table
from vit_patch_env.experiments.run_folder.folder import device_name
from vit_patch_env.models import make_model
from vit_patch_env.models.contract import check_contract, plain_model
from vit_patch_env.patches.grid import size_text
from vit_patch_env.training.flops import FlopCount
from vit_patch_env.training.precision import Precision

N_CLASSES, CHANNELS = 10, 3

TIMM_DROPS = 0.5
"""timm's `patch_drop_rate`, measured beside ours on half of the patches."""


class _Step(NamedTuple):
    """What is measured.

    Attributes:
        name: in the table and in bench.json.
        n_patches: trained on.
        model: whose weights are trained.
        forward: logits of images.
        flops: of a step; None where it is not ours.
    """

    name: str
    n_patches: int
    model: nn.Module
    forward: Callable[[Tensor], Any]
    flops: int | None = None


class ModelBench:
    """A benchmark of one model.

    Args:
        options: of the command, with a model.
        precision: device and type of the matrix products.

    Raises:
        InputError: for a model that is unknown or cannot drop patches.
    """

    def __init__(self, options: BenchOptions, precision: Precision) -> None:
        assert options.model is not None
        self.options = options
        self.precision = precision
        self.config = EnvConfig(
            model=options.model,
            **{one.name: getattr(options, one.name) for one in declared(SizeConfig)},
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model: Any = make_model(
                options.model, n_classes=N_CLASSES, channels=CHANNELS, **self.config.sizes
            ).to(precision.device)
        check_contract(
            self.model, self._images()[:2], n_classes=N_CLASSES, n_patches=self.config.n_patches
        )

    def run(
        self, console: Console, write: Callable[[dict[str, Any]], None] = lambda content: None
    ) -> dict[str, Any]:
        """Measure all steps.

        Args:
            console: to print to.
            write: called with the content so far, each time it has grown.

        Returns:
            The content of bench.json.
        """
        options, device = self.options, self.precision.device
        steps = list(self._steps())
        trained = [self._trainer(step) for step in steps]
        times: list[list[float]] = [[] for _ in steps]
        content = self.settings() | {
            "contenders": [
                {
                    "name": step.name,
                    "n_patches": step.n_patches,
                    "flops": step.flops,
                    "step_seconds": of_step,
                }
                for step, of_step in zip(steps, times, strict=True)
            ],
        }
        with console.status("measuring"):
            for train in trained:
                train(2)
            for _ in range(options.repeats):
                for train, of_step in zip(trained, times, strict=True):
                    of_step.append(seconds(train, options.steps, device) / options.steps)
                write(content)
        show_model_bench(content, console)
        return content

    def settings(self) -> dict[str, Any]:
        """What bench.json says of the model and the machine."""
        options = self.options
        return {
            "model": options.model,
            "device": device_name(self.precision.device),
            "threads": torch.get_num_threads(),
            "precision": self.precision.name,
            "image_size": [*self.config.size],
            "patch_size": self.config.patch_size,
            "batch_size": options.batch_size,
            "steps": options.steps,
        }

    def _steps(self) -> Iterator[_Step]:
        model, n_patches = self.model, self.config.n_patches
        images, generator = self._images(), torch.Generator().manual_seed(0)
        counter = FlopCount(model)
        for share, part in (("all patches", 1), ("half", 2), ("a quarter", 4)):
            n_keep = max(n_patches // part, 1)
            order = torch.randperm(n_patches, generator=generator, device="cpu")[:n_keep]
            keep = None if part == 1 else order.sort().values.to(self.precision.device)
            flops = counter.train_step(images, n_keep)
            yield _Step(share, n_keep, model, partial(model, keep=keep), flops)
        if plain_model(model) is not model:
            yield _Step("the library's own", n_patches, model, plain_model(model))
        dropping = self._timm_that_drops()
        if dropping is not None:
            left = int(n_patches * (1 - TIMM_DROPS))
            name = f"timm's patch_drop_rate {TIMM_DROPS}"
            yield _Step(name, left, dropping, dropping)

    def _timm_that_drops(self) -> nn.Module | None:
        """The same model of timm, which drops patches itself; None for other libraries."""
        family, _, name = str(self.options.model).partition(":")
        if family != "timm":
            return None
        import timm  # an optional package

        model: nn.Module = timm.create_model(
            name, num_classes=N_CLASSES, in_chans=CHANNELS, patch_drop_rate=TIMM_DROPS,
            img_size=self.config.size, patch_size=self.config.patch_size,
        )  # fmt: skip
        return model.to(self.precision.device)

    def _images(self) -> Tensor:
        height, width = self.config.size
        generator = torch.Generator().manual_seed(0)
        shape = (self.options.batch_size, CHANNELS, height, width)
        images = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        return images.to(self.precision.device)

    def _trainer(self, step: _Step) -> Callable[[int], None]:
        """A function that trains a number of steps on a batch that is ready."""
        images, device = self._images(), self.precision.device
        labels = torch.arange(len(images), device=device) % N_CLASSES
        optimizer = torch.optim.Adam(step.model.parameters(), lr=1e-5, fused=True)

        def train(n_steps: int) -> None:
            step.model.train()
            for _ in range(n_steps):
                with self.precision.autocast():
                    output = step.forward(images)
                logits = output if isinstance(output, Tensor) else output.logits
                optimizer.zero_grad()
                F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

        return train


def show_model_bench(bench: dict[str, Any], console: Console) -> None:
    """Print the table: times, and their ratio to that on all patches, per repeat."""
    print_line(
        f"{bench['model']}, {bench['device']}, {counted(bench['threads'], 'thread')}, batches of "
        f"{bench['batch_size']} images of {size_text(bench['image_size'])}, {bench['precision']}. "
        "Medians (and range) over the repeats; a step is forward, backward and update.",
        console,
    )
    table = TextTable("Training steps", [""], ["patches", "step, ms", "of all patches'", "FLOPs"])
    whole = bench["contenders"][0]
    for contender in bench["contenders"]:
        times, flops = contender["step_seconds"], contender["flops"]
        ratio = statistics.median(
            one / other for one, other in zip(times, whole["step_seconds"], strict=True)
        )
        low, middle, high = (1000 * f(times) for f in (min, statistics.median, max))
        table.add_row(
            contender["name"], str(contender["n_patches"]),
            f"{middle:.0f} ({low:.0f}-{high:.0f})", f"{ratio:.2f}",
            "" if flops is None else f"{flops / whole['flops']:.2f}",
        )  # fmt: skip
    print_table(table, console)
