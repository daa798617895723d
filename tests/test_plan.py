"""`vit-patch plan`: what it counts is what steps use, and its arithmetic is that of a hand."""

import json
import math
import os
import signal
import tempfile
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from tests.conftest import TINY
from tests.test_cli import refused
from vit_patch_env import SimpleViT
from vit_patch_env.agents import SCHEDULES, ScheduledCount
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.batches import Batch
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.options.commands import PlanOptions
from vit_patch_env.experiments.plan.activations import SavedBytes, activation_bytes
from vit_patch_env.experiments.plan.costs import (
    RunCost,
    StepCost,
    all_reduce_bytes,
    run_cost,
    step_seconds,
)
from vit_patch_env.experiments.plan.devices import ACCELERATORS
from vit_patch_env.experiments.plan.display import assumptions, duration, size
from vit_patch_env.experiments.plan.measuring import (
    MOST_FLOPS,
    measured_batch,
    measured_seconds,
)
from vit_patch_env.experiments.plan.memory import largest_batch, training_memory
from vit_patch_env.experiments.plan.planning import Planning
from vit_patch_env.integrations import PatchSchedule, count_step_flops
from vit_patch_env.models import make_model
from vit_patch_env.patches.selection import select_tokens
from vit_patch_env.training.flops import FlopCount
from vit_patch_env.training.optimizers import N_STATES, make_optimizer
from vit_patch_env.training.precision import Precision
from vit_patch_env.training.trainer import Trainer

pytestmark = [pytest.mark.counts_flops, pytest.mark.counts_on_shapes]

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
BF16 = torch.bfloat16

SIZES = {"patch_size": 4, "dim": 32, "depth": 1, "heads": 2, "dim_head": 32, "mlp_dim": 64}
SMALL = {**SIZES, "classes": 10, "images": 1000, "epochs": 3, "batch_size": 50}
WORDS = [
    word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))
]


@cache
def plan(**options):
    """A plan as JSON has it; on all patches and an H100 unless it is said otherwise."""
    planning = Planning(
        PlanOptions(**{"device": "h100", "agent": "all", **SMALL, **options}), Console(quiet=True)
    )
    planning.prepare()
    return planning.run()


class Pixels(nn.Module):
    """The mean of linear embeddings, whose memory is counted by hand."""

    n_patches = 64

    def __init__(self, n_classes, channels):
        super().__init__()
        self.embedding = nn.Linear(16 * channels, 8, bias=False)
        self.head = nn.Linear(8, n_classes)

    def forward(self, images, keep=None):
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)  # (b, c, 64, 4, 4)
        patches = patches.permute(0, 2, 1, 3, 4).flatten(2)  # (b, 64, 16 c)
        return self.head(self.embedding(select_tokens(patches, keep)).mean(dim=1))


class Looks(Pixels):
    """Looks at values when it is trained."""

    def forward(self, images, keep=None):
        if self.training:
            images.sum().item()
        return super().forward(images, keep)


def meta(model="simple_vit", **sizes):
    with torch.device("meta"):
        return make_model(model, n_classes=10, channels=3, **sizes)


# What is counted


def test_flops_are_those_that_the_flop_count_of_the_real_model_says():
    found = plan(agent="random", n_patches_desired=16)
    counter = FlopCount(SimpleViT(n_classes=10, **SIZES))
    images = torch.zeros(50, 3, 32, 32)
    full, few = counter.train_step(images, None), counter.train_step(images, 16)
    assert found["step"]["flops"] == full
    assert found["runs"]["all_patches"]["flops"] == 60 * full
    assert found["runs"]["equal_steps"]["flops"] == 60 * few


@pytest.mark.parametrize("n_keep", [None, 8])
def test_memory_is_what_a_hand_counts(n_keep):
    with torch.device("meta"):
        model = Pixels(10, 3)
    n_images, n_patches = 5, n_keep or 64
    activations = activation_bytes(model, (3, 32, 32), n_images, n_keep, Precision(CPU))
    # Patches, the head's input, the softmax of the loss, and the sum of the weights of classes.
    assert activations == 4 * (n_images * (n_patches * 48 + 8 + 10) + 1)
    memory = training_memory(model, (3, 32, 32), n_images, 0, optimizer="adam", ema=True)
    weights = 4 * (48 * 8 + 8 * 10 + 10)
    images = 4 * n_images * 3 * 32 * 32
    assert memory == (weights, weights, 2 * weights, weights, 0, images)
    assert memory.total == 5 * weights + images


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("model", "sizes", "dtype", "within"),
    [
        ("simple_vit", SIZES, torch.float32, 0),
        ("token_expansion", SIZES, torch.float32, 0),
        # torch's fake LayerNorm keeps its statistics in the input's type, the real one in float32.
        ("simple_vit", SIZES, BF16, 0.01),
        ("timm:vit_tiny_patch16_224", {"image_size": 64}, torch.float32, 0),
        ("timm:vit_tiny_patch16_224", {"image_size": 64}, BF16, 0),
    ],
)
@pytest.mark.parametrize("n_keep", [None, 5])
def test_activations_are_what_a_real_step_saves(model, sizes, dtype, within, n_keep):
    if model.startswith("timm"):
        pytest.importorskip("timm")
    precision, n_images, side = Precision(CPU, dtype), 3, sizes.get("image_size", 32)
    real = make_model(model, n_classes=10, channels=3, **sizes)
    trainer = Trainer(real, precision)
    counted = activation_bytes(
        meta(model, **sizes), (3, side, side), n_images, n_keep, precision, rate=trainer.rate(0)
    )
    images, labels = torch.randn(n_images, 3, side, side), torch.arange(n_images)
    saved = SavedBytes(images, labels, *real.parameters(), *real.buffers())
    with saved.counting():
        trainer.step(Batch(images, labels), None if n_keep is None else torch.arange(n_keep))
    assert counted == pytest.approx(saved.total, rel=within, abs=0)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("name", ["simple_vit", "torchvision:vit_b_32"])
def test_on_cuda_no_attention_weights_are_saved(name, dtype):
    sizes, side = ({"image_size": 64, **SIZES}, 64) if name == "simple_vit" else ({}, 224)
    model = meta(name, **sizes)
    step = model.n_patches // 4 if name == "simple_vit" else 16
    shape, first = (3, side, side), getattr(model, "n_prefix_tokens", 0)
    some = [
        activation_bytes(model, shape, 2, times * step - first, Precision(CUDA, dtype))
        for times in (1, 2, 3)
    ]
    one, two = some[1] - some[0], some[2] - some[1]
    # With weights (heads, n, n), the differences would differ by 2 * heads * step^2 numbers. The
    # kernel in fp32 rounds the number of rows up to a multiple of 32.
    assert two == pytest.approx(one, rel=0.01)


@pytest.mark.parametrize("name", N_STATES)
def test_optimizers_keep_as_many_numbers_as_is_said(name):
    weight = nn.Parameter(torch.zeros(100))
    optimizer = make_optimizer(name, [{"params": [weight], "lr": 0.1, "weight_decay": 0.0}])
    weight.grad = torch.ones(100)
    optimizer.step()
    kept = [one for one in optimizer.state[weight].values() if one.numel() > 1]
    assert len(kept) == N_STATES[name]


STEPS = {
    "in proportion": lambda n_images: 100 + 5 * n_images,
    "rounded up": lambda n_images: 100 + 5 * n_images + 128 * -(-n_images // 8),
    "less than at first": lambda n_images: 100 + 4 * n_images + min(n_images, 16),
}
"""Bytes of a step, by how they grow."""


@pytest.mark.parametrize("available", [234, 1000, 12345.6, 1e6])
@pytest.mark.parametrize("memory_of", STEPS.values(), ids=STEPS)
def test_the_largest_batch_fits_and_one_more_image_does_not(memory_of, available):
    largest = largest_batch(memory_of, available)
    assert memory_of(largest) <= available < memory_of(largest + 1)


def test_the_largest_batch_is_found_in_few_trials():
    tried = []

    def memory_of(n_images):
        tried.append(n_images)
        return STEPS["rounded up"](n_images)

    assert largest_batch(memory_of, 1e6) > 10_000
    assert len(set(tried)) < 50


def test_no_batch_fits_where_one_image_does_not():
    assert largest_batch(lambda n_images: 100 + 5 * n_images, 104) == 0


# What it costs


@pytest.mark.parametrize(("n_bytes", "n", "sent"), [(100, 1, 0), (100, 2, 100), (400, 4, 600)])
def test_each_device_sends_two_parts_of_all_but_one(n_bytes, n, sent):
    assert all_reduce_bytes(n_bytes, n) == sent


@pytest.mark.parametrize(("all_reduce", "expected"), [(0, 3), (2, 3), (2.5, 3.5)])
def test_an_all_reduce_is_hidden_behind_two_thirds_of_a_step(all_reduce, expected):
    assert step_seconds(3, all_reduce) == pytest.approx(expected)


def by_patches(n_keep, progress):
    """A step whose FLOPs are its patches, and which takes a second besides."""
    return StepCost(n_keep, n_keep + 1)


@pytest.mark.parametrize("full_steps", [100, 100_000])
def test_runs_of_equal_flops_time_and_steps(full_steps):
    """On 4 of 16 patches for the first half of the budget, then on all."""

    def n_keep(progress):
        return 4 if progress < 0.5 else 16

    half = full_steps / 2
    flops, seconds = 16 * full_steps, 17 * full_steps
    equal_flops = run_cost(n_keep, by_patches, flops, lambda one: one.flops, full_steps)
    assert equal_flops.steps == pytest.approx(4 * half + half, rel=1e-3)
    assert equal_flops.flops == pytest.approx(flops, rel=1e-3)
    assert equal_flops.seconds == pytest.approx(5 * 4 * half + 17 * half, rel=1e-3)
    assert equal_flops.patches == pytest.approx((4 * 4 + 16) / 5, rel=1e-3)
    equal_time = run_cost(n_keep, by_patches, seconds, lambda one: one.seconds, full_steps)
    assert equal_time.steps == pytest.approx(17 / 5 * half + half, rel=1e-2)
    assert equal_time.seconds == pytest.approx(seconds, rel=1e-2)
    equal_steps = run_cost(n_keep, by_patches, full_steps, lambda one: 1.0, full_steps)
    assert equal_steps == RunCost(full_steps, 20 * half, 22 * half, 10)


def test_all_patches_for_the_whole_budget_are_the_same_run():
    whole = RunCost(7, 7 * 16, 7 * 17, 16)
    assert run_cost(lambda _: 16, by_patches, 7 * 16, lambda one: one.flops, 7) == whole
    assert run_cost(lambda _: 16, by_patches, 7 * 17, lambda one: one.seconds, 7) == whole


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_of_equal_flops_has_the_steps_of_a_patch_schedule(name):
    def flops(n_keep):
        return 100 * n_keep + n_keep**2

    schedule = PatchSchedule(name, n_patches=64, total_steps=200, step_flops=flops)
    found = run_cost(
        ScheduledCount(name, 64, 1), lambda n, _: StepCost(flops(n), 0), 200 * flops(64),
        lambda one: one.flops, 200,
    )  # fmt: skip
    assert found.steps == len(schedule)


def test_the_pretrained_agent_keeps_what_it_does_in_other_loops():
    found = plan(agent="pretrained")["runs"]["equal_flops"]
    model = SimpleViT(n_classes=10, **SIZES)
    step_flops = count_step_flops(model, torch.zeros(50, 3, 32, 32))
    schedule = PatchSchedule.from_agent(n_patches=64, total_steps=60, step_flops=step_flops)
    assert found["steps"] == len(schedule) > 60
    kept = [schedule.n_keep(step) for step in range(len(schedule))]
    assert found["patches"] == pytest.approx(sum(kept) / len(kept))


def test_time_is_that_of_the_stated_efficiency():
    one = plan(efficiency=0.5, agent="random")
    compute = one["step"]["flops"] / (0.5 * ACCELERATORS["h100"].peak["bf16"])
    assert one["step"]["seconds"] == pytest.approx(compute)
    assert one["runs"]["all_patches"]["seconds"] == pytest.approx(60 * compute)
    assert one["step"]["all_reduce_bytes"] == 0
    two = plan(efficiency=0.5, devices=2, interconnect=1e3, agent="random")
    sent = two["memory"]["all_patches"]["gradients"]
    assert two["step"]["all_reduce_bytes"] == sent == 4 * two["n_parameters"]
    assert (
        two["runs"]["equal_flops"]["all_reduce_bytes"] == sent * two["runs"]["equal_flops"]["steps"]
    )
    assert two["step"]["seconds"] == pytest.approx(compute / 2 / 3 + sent / 1e3)


def test_memory_is_that_of_the_part_of_each_device():
    one, two = plan(devices=1, ema=True), plan(devices=2, ema=True)
    images = [each["memory"]["all_patches"]["images"] for each in (one, two)]
    assert images == [4 * 50 * 3 * 32 * 32, 4 * 25 * 3 * 32 * 32]
    assert two["memory"]["all_patches"]["average"] == one["memory"]["all_patches"]["weights"]
    largest = [each["memory"]["all_patches"]["largest_batch"] for each in (one, two)]
    assert largest[1] == 2 * largest[0] > 1000


def test_a_batch_that_does_not_fit_is_said_with_the_largest_that_does():
    found = plan(device="t4", images=10**9, batch_size=10**6)["memory"]["all_patches"]
    n_images, shape, model = found["largest_batch"], (3, 32, 32), meta(**SIZES)
    assert not found["fits"]

    def total(n_images):
        activations = activation_bytes(model, shape, n_images, None, Precision(CUDA))
        return sum(
            training_memory(model, shape, n_images, activations, optimizer="adam", ema=False)
        )

    # The device needs a quarter more than what is counted.
    assert 1.25 * total(n_images) <= 16e9 < 1.25 * total(n_images + 1)


def test_a_step_fits_if_what_is_not_counted_does_too():
    largest = plan(device="t4")["memory"]["all_patches"]["largest_batch"]
    for batch_size, fits in ((largest, True), (largest + 1, False)):
        found = plan(device="t4", images=10**9, batch_size=batch_size)["memory"]["all_patches"]
        assert found["fits"] is fits
        assert found["total"] < 0.81 * 16e9


@pytest.mark.long
def test_a_model_whose_share_of_tokens_grows_is_followed_over_the_run():
    found = plan(model="token_expansion", depth=2, agent="all", epochs=12)
    model = make_model("token_expansion", n_classes=10, channels=3, **{**SIZES, "depth": 2})
    counter, images = FlopCount(model), torch.zeros(50, 3, 32, 32)
    stages = [counter.train_step(images, None, rate=model.train_rate(n / 12)) for n in range(12)]
    full = found["runs"]["all_patches"]
    assert stages[0] < stages[-1]
    assert full["flops"] == 240 / 12 * sum(stages)
    # By FLOPs the stages of cheap steps are longer.
    assert full["steps"] == 240 < found["runs"]["equal_flops"]["steps"] < 260


@pytest.mark.parametrize(
    ("batch_size", "n_devices", "image_flops", "expected"),
    [(64, 1, 1e9, 64), (64, 2, 1e9, 64), (1024, 1, 1e9, 200), (1024, 2, 1e9, 400), (8, 2, 1e13, 2)],
)
def test_a_batch_too_large_to_measure_is_a_multiple_of_what_is(
    batch_size, n_devices, image_flops, expected
):
    assert MOST_FLOPS["cpu"] == 200e9
    assert measured_batch(batch_size, n_devices, image_flops, "cpu") == expected


@pytest.mark.long
def test_steps_of_this_machine_are_measured():
    options = {name: TINY[name] for name in ("dim", "depth", "heads", "dim_head", "mlp_dim")}
    found = plan(**options, device="cpu", patch_size=8, precision="fp32", agent="random")
    measured, runs = found["measured"], found["runs"]
    assert (measured["batch_size"], measured["counts"]) == (50, [1, 2, 4, 8, 16])
    assert all(0 < seconds < 10 for seconds in measured["seconds"])
    assert runs["all_patches"]["seconds"] == pytest.approx(60 * measured["seconds"][-1])
    at_ten = (3 * measured["seconds"][-2] + measured["seconds"][-1]) / 4  # between 8 and 16
    assert runs["equal_steps"]["seconds"] == pytest.approx(60 * at_ten)


@pytest.mark.long
def test_steps_of_several_processes_are_measured_as_torchrun_starts_them():
    options = {name: TINY[name] for name in ("dim", "depth", "heads", "dim_head", "mlp_dim")}
    found = plan(**options, device="cpu", patch_size=8, devices=2)
    assert found["measured"]["batch_size"] == 50
    assert all(0 < seconds < 10 for seconds in found["measured"]["seconds"])


def commands_with(text):
    """Commands of the processes that have this text in them."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            found.append(one.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [one for one in found if text in one]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_a_signal_ends_the_processes_and_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    config = EnvConfig(device="cpu", batch_size=2)

    def send():
        """Ctrl-C, when torchrun has started its processes."""
        until = time.monotonic() + 60
        while len(commands_with(str(tmp_path))) < 3 and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        measured_seconds(config, 10, 3, [64], 2)
    assert commands_with(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


# On the command line


def test_json_is_printed_and_nothing_else(capsys):
    main(["plan", *WORDS, "--device", "a100", "--agent", "growing", "--json"])
    shown = capsys.readouterr()
    assert shown.err == ""
    found = json.loads(shown.out)
    assert found["device"]["peak_flops"] == 312e12
    assert found["runs"].keys() == {"all_patches", "equal_flops", "equal_time", "equal_steps"}


def test_the_table_states_its_assumptions(capsys):
    main(
        [
            "plan",
            *WORDS,
            "--device",
            "v100",
            "--agent",
            "flip",
            "--devices",
            "2",
            "--precision",
            "fp16",
        ]
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert "30 % of 125 TFLOP/s (NVIDIA V100 data sheet)" in shown
    assert "a step fits if 1.25 times its memory does" in shown
    assert "a ring at 150 GB/s" in shown
    assert "A step on 64 patches fits into 32 GB per device" in shown


@pytest.mark.parametrize(("efficiency", "words"), [(0.004, "0.4 %"), (0.125, "12.5 %")])
def test_the_efficiency_is_not_rounded_away(efficiency, words):
    assert any(f"Time: {words} of" in one for one in assumptions(plan(efficiency=efficiency)))


@pytest.mark.parametrize("text", ["1281167", "1_281_167"])
def test_large_numbers_may_be_grouped(text):
    assert parse(["plan", "--images", text]).images == 1_281_167


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "tpu"], "--device must be one of h200, h100, a100, l40s, l4, "),
        (["--devices", "3"], "--batch-size is that of all devices together, and must be "),
        (["--model", "resnet"], "--model must be one of simple_vit, vit"),
        (["--model", "ats_vit"], "whose number of tokens does not depend on the images, got ats"),
        (["--model", "tests.test_plan:Looks"], "that runs on shapes without values, got tests."),
        (["--agent", "paper"], "--agent must be one whose number of patches is known before a run"),
        (["--agent", "attended"], "got attended"),
        (["--agent", "sarsa"], "--agent must be one of paper, branching"),
        (["--images", "0"], "--images must be in [1, 10^9], got 0"),
        (["--images", "49"], "--batch-size must be in [1, 49], got 50"),
        (["--epochs", "0"], "--epochs must be in (0, 10^9], got 0"),
        (["--efficiency", "0"], "--efficiency must be a number in (0, 1] or None, got 0.0"),
        (["--interconnect", "0"], "--interconnect must be in (0, inf), got 0.0"),
        (["--device", "cpu", "--efficiency", "0.5"], "--efficiency is for a --device of the table"),
        (["--device", "cpu", "--devices", "50"], "--devices must be at most"),
        (["--device", "v100", "--precision", "bf16"], "--precision must be auto, fp32 or fp16 on "),
        (["--n-patches-desired", "5"], "--n-patches-desired belongs to random, spread, centre"),
        (["--agent", "random", "--n-patches-desired", "65"], "must be in [1, 64], got 65"),
        (["--growing.power", "3"], "--growing belongs to growing, got --agent pretrained"),
        (["--patch-size", "5"], "--image-size must be divisible by --patch-size"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(words, message, capsys):
    device = [] if "--device" in words else ["--device", "h100"]
    assert message in refused(capsys, "plan", *WORDS, *device, *words)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "5 s"), (600, "10 min"), (7200, "2 h"), (90 * 3600, "3.8 days"), (0.0123, "0.0123 s")],
)
def test_times_are_in_the_unit_that_fits(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [
        (0, "0 B"), (1500, "1.5 kB"), (8e10, "80 GB"), (999.4e6, "999 MB"), (999.9e6, "1 GB"),
        (999.6, "1 kB"), (2.345e18, "2,340 PB"),
    ],
)  # fmt: skip
def test_bytes_are_in_the_unit_that_fits(n_bytes, words):
    assert size(n_bytes) == words


def test_every_accelerator_has_what_a_plan_needs():
    for one in ACCELERATORS.values():
        assert one.peak[one.resolved("auto")] > 0
        assert math.isfinite(one.memory * one.link)
        assert one.source
