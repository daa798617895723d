"""Fabricated comparisons, without training, in the files of `vit-patch compare`."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

# method: title, group, final accuracy, seconds and patches relative to all patches, agent's share
METHODS = {
    "vit": ("OriginalViT", "paper", 0.52, 1.02, 1.0, 0.0),
    "simple_vit": ("SimpleViT64", "paper", 0.53, 1.0, 1.0, 0.0),
    "ats_vit": ("ATSViT", "paper", 0.49, 0.96, 0.8, 0.0),
    "agentvit": ("AgentViT", "paper", 0.50, 0.70, 0.6, 0.05),
    "agentvit_branching": ("AgentViT, branching", "paper", 0.505, 0.72, 0.62, 0.06),
    "agentvit_ppo": ("AgentViT, PPO", "paper", 0.495, 0.66, 0.55, 0.04),
    "bandit": ("Bandit", "agent", 0.51, 0.65, 0.5, 0.02),
    "random": ("Random, per batch", "rule", 0.515, 0.66, 0.6, 0.0),
    "random_per_image": ("Random, per image (PatchDropout)", "rule", 0.525, 0.68, 0.6, 0.0),
    "centre": ("Centre", "rule", 0.43, 0.66, 0.6, 0.0),
    "attended": ("Most attended", "rule", 0.46, 0.75, 0.6, 0.0),
    "random_matched": ("Random, as many as AgentViT", "rule", 0.512, 0.67, 0.6, 0.0),
    "evit": ("EViT", "baseline", 0.518, 0.8, 0.7, 0.0),
    "tome": ("ToMe", "baseline", 0.522, 0.85, 0.7, 0.0),
    "patch_merger": ("PatchMerger", "baseline", 0.47, 0.6, 0.5, 0.0),
    "pss": ("PSS, cyclic", "baseline", 0.528, 0.75, 0.7, 0.0),
    "pss_linear": ("PSS, linear", "baseline", 0.523, 0.74, 0.7, 0.0),
    "token_expansion": ("Token Expansion", "baseline", 0.531, 0.73, 0.7, 0.0),
    "flip": ("FLIP", "baseline", 0.527, 0.58, 0.5, 0.0),
}
# Methods that have their own model.
MODELS = {
    "vit",
    "ats_vit",
    "evit",
    "tome",
    "patch_merger",
    "token_expansion",
}  # models of other methods
STEPS_PER_EPOCH, CHANCE = 12, 0.1


def fabricate(
    folder: Path, *, methods=tuple(METHODS), seeds=(0, 1, 2), epochs=10, side=8, accuracy=None,
    seconds=None, noise=0.004, diverged=(), env=None, older=False,
):  # fmt: skip
    """Write a comparison and return its folder.

    Args:
        accuracy: final test accuracies by method, instead of those in `METHODS`.
        seconds: training times relative to all patches by method, instead of those in `METHODS`.
        noise: standard deviation of accuracies between seeds.
        diverged: names of the runs, such as agentvit__0, that end early without test metrics.
        older: whether the files are those of version 0.1, without what later ones record.
        env: other arguments of the environment. Where the budget is not epochs, methods with fewer
            patches make more steps, and the number of an agent's steps depends on the seed.
    """
    env = {
        "dataset": "folder", "data_dir": None, "train_fraction": 0.2, "val_fraction": 0.1,
        "image_size": 32, "patch_size": 32 // side, "dim": 96, "depth": 4, "heads": 6,
        "dim_head": 16, "mlp_dim": 192, "batch_size": 64, "epochs": epochs,
        "learning_rate": 0.001, "optimizer": "adam", "schedule": "constant",
        "n_patches_desired": min(40, side**2), "observation": "attention_output", "device": "cpu",
        "precision": "auto", "budget": "epochs", "seconds": None, **(env or {}),
    }  # fmt: skip
    origin = {
        "command": "vit-patch compare --preset table2-cpu --data-dir data",
        "versions": {"torch": "2.15.0", "numpy": "2.4.6"},
        "python": "3.11.7",
        "machine": "AMD EPYC, 1 threads",
    }
    content = {
        "preset": "table2-cpu",
        "methods": list(methods),
        "titles": {name: METHODS[name][0] for name in methods},
        "groups": {name: METHODS[name][1] for name in methods},
        "sources": {name: f"Author & al. <{name}> 2022" for name in methods},
        "seeds": list(seeds), "jobs": 2, "threads": 1, "env": env,
        "images": {"train": STEPS_PER_EPOCH * env["batch_size"] + 7}, **origin,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "compare.json").write_text(json.dumps(content))
    for method in methods:
        _, _, final, time, share, agent_share = METHODS[method]
        final = (accuracy or {}).get(method, final)
        time = (seconds or {}).get(method, time)
        for seed in seeds:
            _write_run(
                folder / "runs" / f"{method}__{seed}", method, seed, env, origin, final, time,
                share, agent_share, noise, side, older,
            )  # fmt: skip
            if f"{method}__{seed}" in diverged:
                _let_diverge(folder / "runs" / f"{method}__{seed}")
    return folder


def _write_run(
    path, method, seed, env, origin, final, time, share, agent_share, noise, side, older
):  # fmt: skip
    path.mkdir(parents=True)
    rng = np.random.default_rng([seed, list(METHODS).index(method)])
    # A seed shifts all methods by the same value, so pairs differ less than seeds.
    final += 2 * noise * (seed - 1) + noise * rng.standard_normal()
    env = {**env, "model": method if method in MODELS else "simple_vit"}
    n_steps, n_patches = STEPS_PER_EPOCH * env["epochs"], side**2
    if env["budget"] != "epochs":
        n_steps = round(n_steps / share) + (5 * seed if agent_share else 0)
    begins = np.arange(0, n_steps, STEPS_PER_EPOCH)
    lengths = np.diff(np.append(begins, n_steps))  # of epochs, in steps
    epochs, lasting = len(lengths), lengths / STEPS_PER_EPOCH
    done = np.cumsum(lengths) / n_steps
    val = CHANCE + (final - CHANCE) * done**0.4 + 0.01 * rng.standard_normal(epochs)
    epoch_seconds = 30 * time * lasting * (1 + 0.02 * rng.standard_normal(epochs))
    n_selected = np.full(n_steps, round(share * n_patches))
    if agent_share or method == "random_matched":
        wave = np.linspace(1.25, 0.75, n_steps) * share * n_patches
        n_selected = np.clip(np.round(wave + 2 * rng.standard_normal(n_steps)), 1, n_patches)
    if method == "pss":
        n_selected = np.round(n_patches * (0.3 + 0.7 * (np.arange(n_steps) % 30) / 29))
    if method == "pss_linear":
        n_selected = np.round(n_patches * np.linspace(0.3, 1, n_steps))
    weights = 1 - np.hypot(*np.meshgrid(*[np.linspace(-1, 1, side)] * 2)).ravel() / 2
    weights = weights if method in ("centre", "attended") or agent_share else np.ones(n_patches)
    n_selected_mean = np.add.reduceat(n_selected, begins) / lengths
    selected = np.clip(weights / weights.mean() * n_selected_mean[:, None] / n_patches, 0, 1)
    flops = 3e12 * share * lasting
    if env["budget"] == "flops":
        flops *= 3e12 * env["epochs"] / flops.sum()
    if env["budget"] == "seconds":  # the training time of simple_vit
        total = 30.0 * env["epochs"]
        epoch_seconds *= total / epoch_seconds.sum()
        if env["seconds"] is None:
            timed = {"budget": "epochs"} if method == "simple_vit" else {"seconds": total}
            env = {**env, **timed}
    metrics = pd.DataFrame(
        {
            "epoch": np.arange(1, epochs + 1), "train_loss": 2.3 - done,
            "val_loss": 2.3 - done, "val_accuracy": val,
            "n_selected": n_selected_mean, "reward": -0.1,
            "epsilon": np.nan, "images_per_second": 500.0,
            "train_seconds": epoch_seconds * (1 - agent_share),
            "agent_seconds": epoch_seconds * agent_share, "flops": flops, "progress": done,
        }
    )  # fmt: skip
    metrics.to_csv(path / "metrics.csv", index=False)
    pd.DataFrame({"n_selected": n_selected.astype(int)}).to_csv(path / "steps.csv", index=False)
    table = pd.DataFrame(selected)
    table.insert(0, "epoch", metrics["epoch"])
    table.to_csv(path / "selected.csv", index=False)
    test = {"loss": 1.3, "accuracy": final, "precision": final + 0.002, "recall": final - 0.001,
            "f1": final - 0.003}  # fmt: skip
    options = {"agent": method, "seed": seed, "env": env, "dqn": {}}
    result = {
        "test": {"all_patches": test, "agent_patches": {**test, "accuracy": final - 0.02}},
        "train_seconds": metrics["train_seconds"].sum(),
        "agent_seconds": metrics["agent_seconds"].sum(), "flops": metrics["flops"].sum(),
        "n_selected_mean": float(n_selected.mean()), "n_steps": n_steps,
        "peak_memory_bytes": int(6e8 * (0.4 + share)), "diverged": False,
        "classes": ["cat", "dog"], "device": "cpu", "device_name": "AMD EPYC",
        "precision": "bf16", **origin,
    }  # fmt: skip
    if not older:
        result["test"]["n_selected_mean"] = float(n_selected[-1])
        result |= {"waiting_share": 0.01, "slow_share": 0.02}
    (path / "config.json").write_text(json.dumps({"options": options, **origin}))
    write_result(path, result)


def write_result(path, result):
    """Write result.json with the current checksums of the tables and of config.json."""
    result["files"] = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in [path / "config.json", *sorted(path.glob("*.csv"))]
    }
    (path / "result.json").write_text(json.dumps(result))


def _let_diverge(path):
    for name in ("metrics.csv", "selected.csv"):
        pd.read_csv(path / name).head(2).to_csv(path / name, index=False)
    result = json.loads((path / "result.json").read_text())
    nothing = dict.fromkeys(result["test"]["all_patches"])
    result |= {"diverged": True, "test": {"all_patches": nothing, "agent_patches": nothing}}
    write_result(path, result)
