import json

import pytest
import torch
from rich.console import Console

from experiments.bench import Bench, Setup, _Worker, matrix_ceiling, peak_memory, step_flops
from experiments.bench_report import (
    agent_share,
    draw_bench,
    find,
    in_words,
    show_bench,
    step_seconds,
)
from experiments.cli import main
from experiments.contenders import Ours, OursWithAgent, PaperWay, Peer, random_patches
from experiments.options import BenchOptions
from vit_patch_env import SimpleViT, load_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits", train_fraction=0.1)


@pytest.mark.parametrize(
    ("kind", "n_keep"), [(Peer, 64), (PaperWay, 40), (Ours, 40), (Ours, 64), (OursWithAgent, 16)]
)
def test_every_contender_trains_alone_and_as_a_whole(kind, n_keep, data):
    contender = kind(data, 8, CPU, n_keep)
    contender.steps(1)
    contender.epoch(20)  # more steps than an epoch of this little data has
    parts = contender.parts()
    if kind is OursWithAgent:
        assert set(parts) == {
            "observation", "prediction", "replay", "update", "the rest of the loop"
        }  # fmt: skip
        assert all(seconds > 0 for seconds in parts.values())
        assert contender.agent._n_updates > 0
    else:
        assert not parts


def test_contenders_train_on_the_number_of_patches_that_is_asked_for(data):
    seen = []
    agent = OursWithAgent(data, 8, CPU, 16)
    agent.trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[1])))
    agent.epoch(10)
    assert seen == [16] * 10
    paper = PaperWay(data, 8, CPU, 40)
    assert paper.mask.sum() == 40


def test_the_rival_computes_the_same_function(data):
    """vit-pytorch's SimpleViT and ours, with the same weights."""
    rival, ours = Peer(data, 8, CPU, 64).model, SimpleViT(n_classes=10, channels=1)
    names = {
        "to_patch_embedding.1": "embedding.0", "to_patch_embedding.2": "embedding.1",
        "to_patch_embedding.3": "embedding.2", "transformer.norm": "norm", "linear_head": "head",
    }  # fmt: skip
    for layer in range(6):
        theirs, mine = f"transformer.layers.{layer}", f"blocks.{layer}"
        for part in ("norm", "to_qkv", "to_out"):
            names[f"{theirs}.0.{part}"] = f"{mine}.attention.{part}"
        for part in ("0", "1", "3"):
            names[f"{theirs}.1.net.{part}"] = f"{mine}.mlp.{part}"
    ours.load_state_dict(
        {
            f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
            for name, value in rival.state_dict().items()
        }
    )
    images = torch.randn(4, 1, 32, 32)
    assert torch.allclose(ours(images), rival(images), atol=1e-5)


def test_random_patches_keep_as_many_as_asked_for():
    import numpy as np

    mask = random_patches(np.random.default_rng(0), 64, 40)
    assert mask.sum() == 40


def test_step_flops_follow_the_patches():
    one, two = step_flops(16, 1), step_flops(16, 2)
    assert two == 2 * one
    assert step_flops(64, 1) / step_flops(40, 1) == pytest.approx(1.71, abs=0.01)
    assert 128 * step_flops(64, 1) == pytest.approx(232e9, rel=0.01)


def test_matrix_ceiling_and_peak_memory_are_plausible():
    assert 1e8 < matrix_ceiling(CPU, torch.float32, size=256) < 1e14
    assert 5e7 < peak_memory(CPU) < 1e12


def test_a_worker_measures_and_reports_failures():
    data = {"name": "digits", "train_fraction": 0.1}
    worker = _Worker(Setup("ours", 16), data, 8, "cpu")
    assert worker.ask("steps", 1) > 0
    assert worker.ask("memory", 0) > 5e7
    worker.close()
    with pytest.raises(RuntimeError, match="batch_size must be"):
        _Worker(Setup("ours", 16), data, 10**6, "cpu")


@pytest.fixture
def bench():
    def contender(name, n_patches, step, **kwargs):
        return {
            "name": name, "n_patches": n_patches, "step_seconds": [step, step, 9.0],
            "epoch_step_seconds": [1.2 * step, 1.1 * step, 1.2 * step], "agent_parts": {},
            "peak_memory_bytes": 10**9, "flops": n_patches * 10**9, **kwargs,
        }  # fmt: skip

    return {
        "device": "a machine", "threads": 2, "precision": "bf16", "batch_size": 128,
        "epoch_steps": 20,
        "ceiling_flops_per_second": {"fp32": 1e11, "bf16": 4e11},
        "contenders": [
            contender("vit-pytorch, fp32", 64, 2.0),
            contender("the paper's way, fp32", 40, 1.0),
            *(contender("ours", n, n / 320) for n in (64, 48, 40, 32, 16)),
            *(
                contender("ours with agent", n, n / 300, agent_parts={"update": 0.01})
                for n in (64, 48, 40, 32, 16)
            ),
        ],
    }  # fmt: skip


def test_the_words_state_the_ratios(bench):
    words = in_words(bench)
    assert "15.0 times as many images per second as vit-pytorch" in words
    assert "7.5 times as many as the paper's way" in words
    assert "80% of the matrix ceiling" in words
    assert "4.00 at 16 patches where the FLOPs fall by 4.00 (100%)" in words
    assert agent_share(find(bench, "ours with agent", 40)) == pytest.approx(0.01 / 0.16)
    assert step_seconds(find(bench, "ours", 64)) == 0.2
    with pytest.raises(KeyError):
        find(bench, "nobody", 64)


def test_table_and_plot(bench, tmp_path):
    console = Console(record=True, width=120)
    show_bench(bench, console)
    shown = console.export_text()
    assert "ours with agent" in shown
    assert "200 (200-9000)" in shown
    draw_bench(bench, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_whole_benchmark_writes_its_files(bench, monkeypatch, tmp_path):
    """With one contender, as every one is a process of its own."""
    options = BenchOptions(
        batch_size=8, repeats=1, steps=1, epoch_steps=10, out=str(tmp_path / "bench")
    )
    monkeypatch.setattr("experiments.bench.SETUPS", (Setup("agent", 16),))
    monkeypatch.setattr("experiments.bench.draw_bench", lambda *args: None)
    monkeypatch.setattr("experiments.bench.show_bench", lambda *args: None)
    Bench(options, Console(quiet=True)).run()
    written = json.loads((tmp_path / "bench" / "bench.json").read_text())
    (contender,) = written["contenders"]
    assert contender["name"] == "ours with agent"
    assert len(contender["step_seconds"]) == len(contender["epoch_step_seconds"]) == 1
    assert contender["agent_parts"]["observation"] > 0
    assert set(written) >= {"command", "versions", "machine", "ceiling_flops_per_second"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epoch-steps", "15"], "epoch_steps must be a multiple of 10"),
        (["--repeats", "0"], "repeats must be at least 1, got 0"),
        (["--dataset", "nothing"], "dataset must be one of"),
        (["--device", "tpu"], "device must be"),
    ],
)
def test_bad_options_are_one_line(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *args])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
