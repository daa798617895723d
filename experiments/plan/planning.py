"""`vit-patch plan`: what a training would cost on a device, on all patches and on a schedule's."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from vit_patch_env.arguments import declared
from vit_patch_env.checks import ArgumentError, check_integer, named
from vit_patch_env.config import EnvConfig
from vit_patch_env.config.model import SizeConfig
from vit_patch_env.config.task import AUTO
from vit_patch_env.experiments.options.commands import PlanOptions
from vit_patch_env.experiments.plan.costs import (
    RunCost,
    StepCost,
    all_reduce_bytes,
    run_cost,
    step_seconds,
)
from vit_patch_env.experiments.plan.devices import (
    EFFICIENCY,
    Accelerator,
    check_values_used,
    find_accelerator,
    planned_precision,
)
from vit_patch_env.experiments.plan.display import show_plan
from vit_patch_env.experiments.plan.measuring import (
    check_devices,
    measured_batch,
    measured_seconds,
)
from vit_patch_env.experiments.plan.memory import (
    NEEDED_SHARE,
    Memory,
    largest_batch,
    training_memory,
)
from vit_patch_env.experiments.plan.planned_model import PlannedModel
from vit_patch_env.experiments.plan.schedules import KnownSchedule, check_agent, known_schedule
from vit_patch_env.experiments.run_folder.folder import device_name
from vit_patch_env.patches.shares import COST_SHARES, counts_at
from vit_patch_env.system.limits import memory_limit
from vit_patch_env.training.precision import Precision, resolve_device

_EMA = 0.999
"""A decay: its value does not change what a step costs."""

BUDGETS: dict[str, tuple[str, Callable[[StepCost], float]]] = {
    "equal_flops": ("flops", lambda one: one.flops),
    "equal_time": ("seconds", lambda one: one.seconds),
    "equal_steps": ("steps", lambda one: 1.0),
}
"""What a run on the schedule's patches has in common with that on all, and its unit."""


class Measured(NamedTuple):
    """Steps that were measured on this machine.

    Attributes:
        batch_size: of them.
        counts: numbers of patches.
        seconds: of a step of the training's batch, which is as many times as long as it is larger.
    """

    batch_size: int
    counts: list[int]
    seconds: list[float]


class Planning:
    """A plan: `prepare` checks the options and makes the model, `run` counts, and shows the plan.

    Args:
        options: of the command.
        console: to print to.

    Attributes:
        accelerator: of the table; None for a device of this machine.
        precision: type of the device, and of the matrix products.
        config: the arguments of an environment with this training.
        model: without weights.
    """

    accelerator: Accelerator | None
    precision: Precision
    config: EnvConfig
    model: PlannedModel

    def __init__(self, options: PlanOptions, console: Console) -> None:
        self.options = options
        self.console = console

    def prepare(self) -> None:
        """Check the options, and make the model.

        Raises:
            ValueError: for an unknown model, device or agent, or values out of range or without
                use.
        """
        options = self.options
        check_integer(1, options.images, batch_size=options.batch_size)
        if options.batch_size % options.devices:
            raise ArgumentError(
                "batch_size",
                f"is that of all devices together, and must be divisible by {named('devices')}, "
                f"{options.devices}, got {options.batch_size}",
            )
        self.accelerator = find_accelerator(options.device)
        check_values_used(
            self.accelerator, efficiency=options.efficiency, interconnect=options.interconnect
        )
        of_this_machine = self.accelerator is None
        device = resolve_device(options.device) if of_this_machine else torch.device("cpu")
        self.precision = planned_precision(self.accelerator, device, options.precision)
        if of_this_machine:
            check_devices(device, options.devices)
        check_agent(options)
        self.config = self._config(device)
        self.model = PlannedModel(self.config, options.classes, options.channels)

    def run(self) -> dict[str, Any]:
        """Count, measure on a device of this machine, and print.

        Returns:
            The plan, as JSON has it.
        """
        with self.console.status("counting"):
            plan = self._plan()
        if self.options.json:
            # Not to the console, which ignores errors: a part of the output is no success.
            sys.stdout.write(json.dumps(plan, indent=2) + "\n")
            sys.stdout.flush()
        else:
            show_plan(plan, self.console)
        return plan

    def _config(self, device: torch.device) -> EnvConfig:
        options = self.options
        n_desired = options.n_patches_desired
        return EnvConfig(
            model=options.model,
            **{one.name: getattr(options, one.name) for one in declared(SizeConfig)},
            batch_size=options.batch_size,
            epochs=options.epochs,
            n_patches_desired=AUTO if n_desired is None else n_desired,
            optimizer=options.optimizer,
            ema=_EMA if options.ema else None,
            device=str(device),
            precision=self.precision.name,
            observation="none",
        )

    @property
    def _steps(self) -> int:
        """Steps of the training on all patches, as in the environment."""
        options = self.options
        return max(round(options.epochs * (options.images // options.batch_size)), 1)

    def _plan(self) -> dict[str, Any]:
        n_patches = self.model.n_patches
        measured = None if self.accelerator else self._measured()
        cost_at_rate = cache(partial(self._cost, measured=measured))

        def cost(n_keep: int, progress: float) -> StepCost:
            return cost_at_rate(n_keep, self.model.rate(progress))

        full = run_cost(lambda _: n_patches, cost, self._steps, lambda one: 1.0, self._steps)
        runs, most_kept = {"all_patches": (full, "all patches")}, 1
        for name, (total, unit) in BUDGETS.items():
            schedule = self._schedule(unit, cost)
            run = run_cost(schedule.n_keep, cost, getattr(full, total), unit, self._steps)
            runs[name] = run, schedule.words
            most_kept = max(most_kept, *map(schedule.n_keep, np.linspace(0, 1 - 1e-9, 1001)))
        memory = {kept: self._memory(kept) for kept in {n_patches, most_kept}}
        return {
            **self._training(),
            "device": self._device(),
            "measured": None if measured is None else measured._asdict(),
            "step": self._step(cost(n_patches, 0.0)),
            "memory": {
                "all_patches": memory[n_patches],
                "schedule": memory[most_kept],
                "available": self._available,
                "needed_share": NEEDED_SHARE,
            },
            "runs": {name: self._run(*run, full) for name, run in runs.items()},
        }

    def _training(self) -> dict[str, Any]:
        options, config = self.options, self.config
        return {
            "model": options.model,
            "n_parameters": self.model.n_parameters,
            "image_size": [*config.size],
            "patch_size": config.patch_size,
            "n_patches": config.n_patches,
            "channels": options.channels,
            "classes": options.classes,
            "images": options.images,
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "optimizer": options.optimizer,
            "ema": options.ema,
            "agent": options.agent,
        }

    def _device(self) -> dict[str, Any]:
        options, one, precision = self.options, self.accelerator, self.precision.name
        common = {"name": options.device, "n_devices": options.devices, "precision": precision}
        if one is None:
            return {
                **common, "title": device_name(self.precision.device), "peak_flops": None,
                "efficiency": None, "interconnect": None, "source": None,
            }  # fmt: skip
        return {
            **common,
            "title": one.title,
            "peak_flops": one.peak[precision],
            "efficiency": self._efficiency,
            "interconnect": self._interconnect if options.devices > 1 else None,
            "source": one.source,
        }

    def _step(self, full: StepCost) -> dict[str, Any]:
        """A step on all patches at the beginning of a run."""
        sent = all_reduce_bytes(self.model.gradient_bytes, self.options.devices)
        return {**full._asdict(), "all_reduce_bytes": sent}

    def _run(self, run: RunCost, words: str, full: RunCost) -> dict[str, Any]:
        per_epoch = max(self.options.images // self.options.batch_size, 1)
        sent = all_reduce_bytes(self.model.gradient_bytes, self.options.devices)
        return {
            "schedule": words,
            **run._asdict(),
            "epochs": run.steps / per_epoch,
            "all_reduce_bytes": run.steps * sent,
            "of_all_patches": {
                name: getattr(run, name) / getattr(full, name)
                for name in ("steps", "flops", "seconds")
            },
        }

    def _schedule(
        self, unit: Callable[[StepCost], float], cost: Callable[[int, float], StepCost]
    ) -> KnownSchedule:
        return known_schedule(
            self.options, self.config, self._steps, lambda n_keep: unit(cost(n_keep, 0.0))
        )

    def _cost(self, n_keep: int, rate: float | None, measured: Measured | None) -> StepCost:
        """The cost of a step, of which the measured seconds are those at the beginning of a run."""
        flops = self.model.flops(n_keep, rate)
        if measured is not None:
            seconds = float(np.interp(n_keep, measured.counts, measured.seconds))
            return StepCost(flops, seconds * flops / self.model.flops(n_keep, self.model.rate(0)))
        assert self.accelerator is not None
        peak, n_devices = self.accelerator.peak[self.precision.name], self.options.devices
        compute = flops / n_devices / (peak * self._efficiency)
        sent = all_reduce_bytes(self.model.gradient_bytes, n_devices)
        return StepCost(flops, step_seconds(compute, sent / self._interconnect))

    def _measured(self) -> Measured:
        """Seconds of steps on this machine."""
        options, n_patches = self.options, self.model.n_patches
        counts = sorted(set(counts_at(COST_SHARES, n_patches)))
        device = self.precision.device.type
        image_flops = self.model.flops(n_patches, self.model.rate(0)) / options.batch_size
        n_images = measured_batch(options.batch_size, options.devices, image_flops, device)
        # Few and slow steps of a long run, so that none is the last one, and none diverges.
        config = replace(self.config, batch_size=n_images, epochs=1000, learning_rate=1e-6)
        seconds = measured_seconds(
            config, options.classes, options.channels, counts, options.devices
        )
        factor = options.batch_size / n_images
        return Measured(n_images, counts, [factor * one for one in seconds])

    def _memory(self, n_keep: int) -> dict[str, Any]:
        """Bytes on each device, and the largest batch of all devices together that fits."""
        options = self.options
        memory_of = cache(partial(self._memory_of, n_keep=n_keep))
        memory = memory_of(options.batch_size // options.devices)
        countable = self._available / NEEDED_SHARE
        largest = largest_batch(lambda n_images: memory_of(n_images).total, countable)
        return {
            "n_patches": n_keep,
            **memory._asdict(),
            "total": memory.total,
            "fits": memory.total <= countable,
            "largest_batch": options.devices * largest,
        }

    def _memory_of(self, n_images: int, n_keep: int) -> Memory:
        model, options = self.model, self.options
        return training_memory(
            model.model, model.image_shape, n_images,
            model.activations(n_images, n_keep, self.precision),
            optimizer=options.optimizer, ema=options.ema,
        )  # fmt: skip

    @property
    def _available(self) -> float:
        """Bytes of a device; of a CPU, that several processes share, a part."""
        if self.accelerator is not None:
            return self.accelerator.memory
        if self.precision.device.type == "cuda":
            return torch.cuda.get_device_properties(self.precision.device).total_memory
        return memory_limit() / self.options.devices

    @property
    def _efficiency(self) -> float:
        return EFFICIENCY if self.options.efficiency is None else self.options.efficiency

    @property
    def _interconnect(self) -> float:
        assert self.accelerator is not None
        given = self.options.interconnect
        return self.accelerator.link if given is None else given
