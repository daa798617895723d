import json
import os
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.test_graphed import Recorded
from vit_patch_env import SimpleViT, load_dataset
from vit_patch_env.experiments.bench import step_modes
from vit_patch_env.experiments.bench.baselines import PaperLoop, VitPytorch
from vit_patch_env.experiments.bench.benchmark import Bench
from vit_patch_env.experiments.bench.contenders import Ours, OursWithAgent, random_patches
from vit_patch_env.experiments.bench.measuring import matrix_ceiling, step_flops, step_shares
from vit_patch_env.experiments.bench.report import (
    plot_bench,
    show_bench,
    spread,
    summary,
    unstable_ratios,
)
from vit_patch_env.experiments.bench.setups import SETUPS, Setup
from vit_patch_env.experiments.bench.worker import Worker
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.options.commands import BenchOptions
from vit_patch_env.experiments.process.forkserver import fork_context
from vit_patch_env.system.memory import peak_memory
from vit_patch_env.training import compiled, trainer
from vit_patch_env.training.graphed import StepGraphs

CPU = torch.device("cpu")

BENCHMARK = "vit_patch_env.experiments.bench.benchmark"


@pytest.fixture(autouse=True)
def forkserver_starts_early(own_cache):
    """It imports the libraries in the background of the first tests; later calls do nothing."""
    fork_context()


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits", train_fraction=0.05, val_fraction=0.2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "n_keep"),
    [(VitPytorch, 64), (Ours, 40), (PaperLoop, 40), (Ours, 64), (OursWithAgent, 16)],
)
def test_every_contender_trains_steps_and_epochs(kind, n_keep, data):
    contender = kind(data, 8, CPU, n_keep)
    contender.steps(1)
    assert len(data.train.images) < 10 * 8
    contender.epoch(10)  # more steps than an epoch has
    parts = contender.parts()
    if kind is OursWithAgent:
        assert set(parts) == {
            "observation", "prediction", "replay", "update", "the rest of the loop"
        }  # fmt: skip
        assert all(seconds > 0 for seconds in parts.values())
        assert contender.agent._n_updates > 0
    else:
        assert not parts


@pytest.mark.long
def test_contenders_train_on_the_given_number_of_patches(data):
    seen = []
    agent = OursWithAgent(data, 8, CPU, 16)
    agent.run.trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[1])))
    agent.epoch(10)
    assert seen == [16] * 10
    paper = PaperLoop(data, 8, CPU, 40)
    assert paper.mask.sum() == 40


@pytest.mark.long
def test_the_papers_agent_learns_every_tenth_step(data, monkeypatch):
    paper = PaperLoop(data, 8, CPU, 40)
    learnt = []
    monkeypatch.setattr(paper, "_learn", lambda: learnt.append(len(paper.memory)))
    monkeypatch.setattr(paper, "_train", lambda images, labels: 1.0)
    paper.epoch(10)
    paper.epoch(10)
    assert learnt == [64 + 9, 64 + 19]


def test_vit_pytorch_computes_the_same_function(data):
    """vit-pytorch's SimpleViT and ours, with the same weights."""
    theirs, ours = VitPytorch(data, 8, CPU, 64).model, SimpleViT(n_classes=10, channels=1)
    names = {
        "to_patch_embedding.1": "embedding.0", "to_patch_embedding.2": "embedding.1",
        "to_patch_embedding.3": "embedding.2", "transformer.norm": "norm", "linear_head": "head",
    }  # fmt: skip
    for layer in range(6):
        old, new = f"transformer.layers.{layer}", f"blocks.{layer}"
        for part in ("norm", "to_qkv", "to_out"):
            names[f"{old}.0.{part}"] = f"{new}.attention.{part}"
        for part in ("0", "1", "3"):
            names[f"{old}.1.net.{part}"] = f"{new}.mlp.{part}"
    ours.load_state_dict(
        {
            f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
            for name, value in theirs.state_dict().items()
        }
    )
    images = torch.randn(4, 1, 32, 32)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_random_patches_has_n_keep_patches():
    import numpy as np

    mask = random_patches(np.random.default_rng(0), 64, 40)
    assert mask.sum() == 40


@pytest.mark.long
def test_step_flops_depend_on_the_patches_and_the_batch():
    one, two = step_flops(16, 1), step_flops(16, 2)
    assert two == 2 * one
    assert step_flops(64, 1) / step_flops(40, 1) == pytest.approx(1.71, abs=0.01)
    assert 128 * step_flops(64, 1) == pytest.approx(232e9, rel=0.01)


def test_matrix_ceiling_and_peak_memory_are_plausible():
    assert 1e8 < matrix_ceiling(CPU, torch.float32, size=256) < 1e14
    assert 5e7 < peak_memory(CPU) < 1e12


@pytest.mark.long
def test_step_shares_sum_to_one_and_print_nothing(data, capfd):
    contender = Ours(data, 8, CPU, 40)
    contender.steps(1)
    shares, idle = step_shares(contender.steps, 3, CPU)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in shares.values())
    assert shares["matrix products"] > shares["optimiser"]
    assert idle is None
    assert not capfd.readouterr().err


def worker_of(setup, batch_size):
    data = {"name": "digits", "train_fraction": 0.1}
    return Worker(setup, data, batch_size=batch_size, device="cpu", precision="fp32")


@pytest.mark.long
def test_a_worker_measures_and_reports_failures():
    worker = worker_of(Setup("ours", 16), 8)
    assert worker.ask("steps", 1) > 0
    assert worker.ask("epoch_alone", 1) > 0
    assert worker.ask("memory") > 5e7
    os.kill(worker.process.pid, signal.SIGKILL)  # as by Linux's out-of-memory killer
    with pytest.raises(MemoryError, match="was killed"):
        worker.ask("steps", 1)
    worker.close()
    with pytest.raises(RuntimeError, match="batch_size must be"):
        worker_of(Setup("ours", 16), 10**6)


@pytest.fixture
def bench():
    def contender(name, n_patches, step, **kwargs):
        ceiling = 1e11 if "fp32" in name else 4e11
        return {
            "name": name, "n_patches": n_patches, "precision": "fp32" if "fp32" in name else "bf16",
            "flops": n_patches * 10**9, "step_seconds": [step, 2 * step, step],
            "ceiling": [ceiling, ceiling / 2, ceiling],  # the second repeat was slower
            "epoch_step_seconds": [1.2 * step, 2.4 * step, 1.2 * step], "agent_seconds": {},
            "step_shares": {"matrix products": 0.7, "attention": 0.2, "optimiser": 0.1},
            "idle_share": None, "peak_memory_bytes": 10**9, **kwargs,
        }  # fmt: skip

    agent = {"step_seconds": [], "ceiling": [], "step_shares": {}}
    return {
        "device": "a machine", "threads": 2, "precision": "bf16", "batch_size": 128, "steps": 5,
        "epoch_steps": 20, "skipped": [],
        "contenders": [
            contender("vit-pytorch, fp32", 64, 2.0),
            contender("the paper's way, fp32", 40, 1.0),
            *(contender("ours", n, n / 320) for n in (64, 48, 40, 32, 16)),
            *(
                contender(
                    "ours with agent", n, n / 300,
                    agent_seconds={"update": [n / 25_000, n / 12_500, n / 25_000]}, **agent,
                )
                for n in (64, 48, 40, 32, 16)
            ),
        ],
    }  # fmt: skip


def test_the_summary_has_ratios_per_repeat(bench):
    text = summary(bench)
    assert "processes 15.00 times as many images per second as vit-pytorch" in text
    assert "processes 7.50 times as many as the paper's way" in text
    assert "reaches 80.0% of the matmul ceiling" in text
    assert "At 16 patches it is 4.00 times as fast, with 1/4.00 of the FLOPs" in text
    assert "1/4.00 of the FLOPs (100% of the ideal speed-up)." in text
    assert "The agent takes 1.0% of a step at 40 patches" in text
    assert "40 of 200 ms are above the lower bound of 160 ms" in text
    assert "largest part besides the matrix products is attention" in text
    assert not unstable_ratios(bench)


def test_a_ratio_with_a_large_spread_is_not_reported(bench):
    bench["contenders"][0]["epoch_step_seconds"] = [1.0, 2.0, 6.0]
    percent = f"{spread([6.25, 6.25, 37.5]):.0%}"
    assert unstable_ratios(bench) == [f"speed-up over vit-pytorch ({percent})"]
    text = summary(bench)
    assert (
        f"The speed-up over vit-pytorch is not reported: the spread of its 3 repeats is {percent}."
        in text
    )
    assert "as vit-pytorch with all" not in text
    assert "7.50 times as many as the paper's way" in text


def test_spread_is_the_interquartile_range_over_the_median():
    assert spread([1.0]) == 0
    assert spread([1, 2, 3, 4, 5]) == pytest.approx(2 / 3)
    assert spread([1, 3, 3, 3, 9]) == 0


def test_tables_and_plot(bench, tmp_path):
    console = Console(record=True, width=120)
    show_bench(bench, console)
    shown = console.export_text()
    assert "ours with agent" in shown
    assert "200 (200-400)" in shown
    assert "GPU idle" not in shown
    plot_bench(bench, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_on_cuda_the_idle_share_is_shown(bench):
    for contender in bench["contenders"]:
        if contender["name"] != "ours with agent":
            contender["idle_share"] = 0.25
    console = Console(record=True, width=140)
    show_bench(bench, console)
    shown = console.export_text()
    assert "GPU idle" in shown
    assert "The GPU is idle for 25% of the time." in shown


def test_missing_contenders_are_named_and_their_ratios_omitted(bench, tmp_path):
    missing = [c for c in bench["contenders"] if "fp32" in c["name"]]
    bench["contenders"] = [c for c in bench["contenders"] if c not in missing]
    bench["skipped"] = [
        {"name": c["name"], "n_patches": c["n_patches"], "reason": "not installed"} for c in missing
    ]
    console = Console(record=True, width=120)
    show_bench(bench, console)
    shown = console.export_text()
    assert "Skipped: not installed." in shown
    assert "times as many" not in shown
    assert "80.0% of the matmul ceiling" in shown
    plot_bench(bench, tmp_path / "bench.png")


def test_the_committed_benchmark_can_be_read(tmp_path):
    path = Path(__file__).parent.parent / "docs" / "bench.json"
    bench = json.loads(path.read_text())
    console = Console(record=True, width=140)
    show_bench(bench, console)
    shown = console.export_text()
    for words in ("images per second as vit-pytorch", "as many as the paper's way", "lower bound"):
        assert words in shown
    plot_bench(bench, tmp_path / "bench.png")


@pytest.fixture
def small_bench(monkeypatch, tmp_path):
    """A prepared benchmark with one contender, as each has its own process."""
    monkeypatch.setattr(f"{BENCHMARK}.SETUPS", (Setup("ours", 16), Setup("agent", 16)))

    def make(**options):
        values = {"batch_size": 8, "repeats": 1, "steps": 1, "epoch_steps": 10}
        bench = Bench(
            BenchOptions(**{**values, "out": str(tmp_path / "bench"), **options}),
            Console(quiet=True),
        )
        bench.prepare()
        return bench

    return make


@pytest.mark.long
def test_a_complete_benchmark_writes_its_files(small_bench, tmp_path):
    small_bench().run()
    written = json.loads((tmp_path / "bench" / "bench.json").read_text())
    alone, agent = written["contenders"]
    assert (alone["name"], agent["name"]) == ("ours", "ours with agent")
    assert len(alone["step_seconds"]) == len(alone["ceiling"]) == 1
    assert len(alone["epoch_step_seconds"]) == len(agent["epoch_step_seconds"]) == 1
    assert agent["agent_seconds"]["observation"][0] > 0
    assert not alone["agent_seconds"]
    assert alone["step_shares"]["attention"] > 0
    assert set(written) >= {"command", "versions", "machine", "precision", "skipped"}
    assert (tmp_path / "bench" / "bench.png").exists()


class _FakeWorker:
    """Fits with up to 3 images; returns values without measuring."""

    n_asked = 0

    def __init__(self, setup, data, *, batch_size, device, precision):
        if batch_size > 3:
            raise MemoryError("too much")

    def ask(self, what, n_steps=0):
        type(self).n_asked += 1
        if what == "shares":
            return {"matrix products": 1.0}, None
        return {} if what == "parts" else 10.0 ** (self.n_asked % 3)

    def close(self):
        pass


def test_a_batch_that_does_not_fit_is_named_with_one_that_does(small_bench, monkeypatch):
    monkeypatch.setattr(f"{BENCHMARK}.Worker", _FakeWorker)
    with pytest.raises(MemoryError, match=r"batches of 8 images .* do not fit .*--batch-size 2"):
        small_bench().run()


@pytest.mark.long
def test_unstable_ratios_are_repeated_up_to_a_limit(small_bench, monkeypatch):
    monkeypatch.setattr(f"{BENCHMARK}.Worker", _FakeWorker)
    monkeypatch.setattr(f"{BENCHMARK}.matrix_ceiling", lambda device, dtype: 1e11)
    monkeypatch.setattr(f"{BENCHMARK}.unstable_ratios", lambda bench: ["everything"])
    bench = small_bench(batch_size=2, repeats=2, max_repeats=4).run()
    assert len(bench["contenders"][0]["step_seconds"]) == 4


def test_an_unsupported_precision_and_a_missing_baseline_are_skipped(small_bench, monkeypatch):
    monkeypatch.setattr(f"{BENCHMARK}.has_bf16", lambda device: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    bench = small_bench(precision="bf16")
    assert "no instructions for bf16" in bench._missing(Setup("ours", 64))
    assert "pip install vit-pytorch" in bench._missing(Setup("vit_pytorch", 64))
    assert small_bench(precision="fp32")._missing(Setup("ours", 64)) is None


def test_running_out_of_memory_is_one_line(monkeypatch, capsys):
    class Command:
        def __init__(self, options, console):
            pass

        def prepare(self):
            pass

        def run(self):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes\nmore")

    monkeypatch.setattr("vit_patch_env.experiments.runs.train.Run", Command)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--batch-size", "512"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "out of memory with --batch-size 512" in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epoch-steps", "15"], "--epoch-steps must be a multiple of 10"),
        (["--repeats", "0"], "--repeats must be in [1, 10^9], got 0"),
        (["--batch-size", "2000"], "--batch-size must be in [1, "),
        (["--precision", "fp8"], "--precision must be one of auto, fp32, bf16, got 'fp8'"),
        (["--dataset", "nothing"], "--dataset must be one of"),
        (["--device", "tpu"], "--device must be"),
        (["--n-patches", "64", "63"], "--n-patches must be of 64, 48, 40, 32, 16, got (64, 63)"),
        (["--modes"], "--modes is for --model, got True"),
        (["--model", "vit", "--n-patches", "16"], "--n-patches has no use with --model"),
        (["--image-size", "64"], "--image-size is for --model, got 64"),
        (["--model", "vit", "--dataset", "cifar10"], "--dataset has no use with --model"),
        (
            ["--model", "vit", "--image-size", "30"],
            "--image-size must be divisible by --patch-size",
        ),
        (["--model", "torch.nn:Linear"], "--model Linear must have n_patches"),
    ],
)
def test_bad_options_are_one_line(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *args])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("model", "sizes", "patches"),
    [
        ("timm:test_vit", {}, [100, 50, 25, 100, 50]),
        ("simple_vit", {}, [64, 32, 16]),
        ("vit_pytorch:SimpleViT", {"image_size": (32, 48), "patch_size": 8}, [24, 12, 6, 24]),
    ],
)
def test_steps_of_a_model_are_measured_beside_its_library_s_own(model, sizes, patches, tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("vit_pytorch")
    options = BenchOptions(
        model=model, batch_size=2, repeats=2, steps=1, precision="fp32", device="cpu",
        out=str(tmp_path / "bench"), **sizes,
    )  # fmt: skip
    console = Console(record=True, width=120)
    bench = Bench(options, console)
    bench.prepare()
    bench.run()
    written = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert [one["n_patches"] for one in written["contenders"]] == patches
    assert all(len(one["step_seconds"]) == 2 for one in written["contenders"])
    assert "a quarter" in console.export_text()


@pytest.fixture
def modes_of(tmp_path, monkeypatch):
    """Measures the modes of a tiny model's steps; a graph is a tape of operations."""
    monkeypatch.setattr(step_modes, "unavailable", lambda mode, device: "")
    monkeypatch.setattr(trainer, "compiled_forward", compiled.forward)  # compiling takes long
    sizes = {"dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 16, "image_size": 16}

    def measured(model="simple_vit", **capturing):
        recorded = Recorded(**capturing)
        monkeypatch.setattr(
            step_modes, "graphs_for", lambda _, device: StepGraphs(device, capturing=recorded)
        )
        options = BenchOptions(
            model=model, modes=True, batch_size=2, repeats=3, steps=2, precision="fp32",
            device="cpu", out=str(tmp_path / "bench"), **sizes,
        )  # fmt: skip
        console = Console(record=True, width=200)
        bench = Bench(options, console)
        bench.prepare()
        bench.run()
        return json.loads((tmp_path / "bench" / "bench.json").read_text()), console.export_text()

    return measured


def test_modes_of_steps_are_measured_at_each_number_of_patches(modes_of):
    bench, shown = modes_of()
    measured = [(one["n_patches"], one["name"]) for one in bench["contenders"]]
    assert measured == [(n, name) for n in (16, 8, 4, 1) for name in step_modes.MODES]
    assert all(len(one["step_seconds"]) == 3 for one in bench["contenders"])
    assert bench["skipped"] == []
    assert list(bench["fastest"]) == ["16", "8", "4", "1"]
    assert "Fastest: " in shown


def test_memory_is_that_of_a_number_of_patches_alone(modes_of, monkeypatch):
    """Before it is measured there are gradients and the optimizer's state, and no graphs."""
    before, trainers = [], []
    made = step_modes.ModeBench._mode_trainer

    def kept(self, mode):
        trainers.append(made(self, mode))
        return trainers[-1]

    class Memory:
        def __init__(self, device):
            trainer, graphs = trainers[len(before) % len(trainers)]
            gradients = [one.grad for one in trainer.update.parameters]
            n_states = len(trainer.optimizer.state)
            before.append(
                (None in gradients, n_states == len(gradients), graphs and graphs.n_graphs)
            )

        def needed(self):
            return 7

    monkeypatch.setattr(step_modes.ModeBench, "_mode_trainer", kept)
    monkeypatch.setattr(step_modes, "_Memory", Memory)
    bench, _ = modes_of()
    assert before == [(False, True, None), (False, True, None), (False, True, 0)] * 4
    assert {one["peak_memory_bytes"] for one in bench["contenders"]} == {7}


def test_the_fastest_mode_has_the_shortest_median():
    def contender(name, n_patches, *step_seconds):
        return {"name": name, "n_patches": n_patches, "step_seconds": list(step_seconds)}

    bench = {
        "contenders": [
            contender("eager", 16, 4.0, 2.0, 9.0), contender("compiled", 16, 2.0, 3.0, 9.0),
            contender("eager", 4, 2.0, 2.0, 2.0), contender("CUDA graphs", 4, 1.0, 0.5, 8.0),
        ]
    }  # fmt: skip
    assert list(step_modes.medians(bench)) == [
        (16, "eager", 4.0, 1.0), (16, "compiled", 3.0, 1.0),
        (4, "eager", 2.0, 1.0), (4, "CUDA graphs", 1.0, 0.5),
    ]  # fmt: skip
    assert step_modes.fastest(bench) == {"16": "compiled", "4": "CUDA graphs"}


def test_a_mode_that_fails_is_skipped_with_its_reason(modes_of, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no compiler was found")

    monkeypatch.setattr(trainer, "compiled_forward", refuse)
    bench, shown = modes_of(fails_at=2)
    reasons = {(one["n_patches"], one["name"]): one["reason"] for one in bench["skipped"]}
    assert [key for key in reasons if key[1] == "CUDA graphs"] == [
        (4, "CUDA graphs"),
        (1, "CUDA graphs"),
    ]
    assert reasons[16, "compiled"] == "RuntimeError: no compiler was found"
    assert reasons[4, "CUDA graphs"].endswith("RuntimeError: operation not permitted")
    assert reasons[1, "CUDA graphs"] == "capturing has failed before"
    assert [one["name"] for one in bench["contenders"] if one["n_patches"] == 1] == ["eager"]
    assert "Skipped: compiled: RuntimeError" in shown.replace("\n", " ")


def test_our_own_contenders_are_measured_at_the_given_numbers(small_bench, monkeypatch):
    monkeypatch.setattr(f"{BENCHMARK}.SETUPS", SETUPS)
    setups = small_bench(n_patches=(40,))._setups
    assert [(one.kind, one.n_patches) for one in setups] == [
        ("vit_pytorch", 64), ("paper", 40), ("ours", 40), ("agent", 40)
    ]  # fmt: skip
