"""rl-zoo3: its scripts `train` and `enjoy`, and its optimiser, as commands."""

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import vit_patch_env
from tests.clients.attempts import N_STEPS, TINY, attempt

ENV = vit_patch_env.ENV_ID
ENV_KWARGS = [f"{name}:{value!r}" for name, value in TINY.items()]


class Algorithm(NamedTuple):
    """An algorithm that rl-zoo3 can run.

    Attributes:
        name: of the algorithm there.
        launcher: what Python is given to run one of its scripts, whose name is filled in.
        conf: YAML with its values for this environment.
    """

    name: str
    launcher: tuple[str, ...]
    conf: str


ITS_OWN = ("-m", "rl_zoo3.{script}")
OURS = (
    "-c", "from vit_patch_env.experiments.cli import main; main()", "zoo", "{script}",
)  # fmt: skip

PPO = f"""
{ENV}:
  n_envs: 2
  n_timesteps: {4 * N_STEPS}
  policy: MlpPolicy
  normalize: true
  n_steps: {N_STEPS}
  batch_size: {N_STEPS}
"""

DQN = f"""
{ENV}:
  n_timesteps: {4 * N_STEPS}
  policy: MlpPolicy
  learning_starts: 8
  batch_size: 8
"""

ALGORITHMS = [Algorithm("ppo", ITS_OWN, PPO), Algorithm("multi_output_dqn", OURS, DQN)]


def zoo(script: str, algorithm: Algorithm, *options: str) -> str:
    """What a script of rl-zoo3 prints, in the working folder."""
    Path("conf.yml").write_text(algorithm.conf)
    launcher = [part.format(script=script) for part in algorithm.launcher]
    arguments = ["--algo", algorithm.name, "--env", ENV, "--num-threads", "1"]
    arguments += ["--gym-packages", "vit_patch_env"]
    done = subprocess.run(
        [sys.executable, *launcher, *arguments, *options], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no error"])[-1])
    return done.stdout


def train(algorithm: Algorithm) -> None:
    """With an evaluation, which trains a ViT of its own, and normalised observations."""
    options = ["--conf-file", "conf.yml", "--seed", "1", "--env-kwargs", *ENV_KWARGS]
    options += ["--eval-freq", str(2 * N_STEPS), "--eval-episodes", "1", "-f", "logs"]
    zoo("train", algorithm, *options)
    folder = Path("logs") / algorithm.name / f"{ENV}_1"
    for name in (f"{ENV}.zip", "best_model.zip", "evaluations.npz", "0.monitor.csv"):
        assert (folder / name).exists(), f"expected {name}, got {sorted(folder.iterdir())}"


def enjoy(algorithm: Algorithm) -> None:
    printed = zoo("enjoy", algorithm, "-f", "logs", "-n", str(3 * N_STEPS), "--no-render")
    assert printed.count("Episode Reward") == 3, printed
    assert "Success rate" in printed, printed
    assert re.findall(r"Episode Length (\d+)", printed) == [str(N_STEPS)] * 3, printed


def optimize(algorithm: Algorithm) -> None:
    options = ["--conf-file", "conf.yml", "--seed", "1", "--env-kwargs", *ENV_KWARGS]
    options += ["-optimize", "--n-trials", "2", "--n-startup-trials", "1", "--no-optim-plots"]
    options += ["--n-evaluations", "1", "--eval-episodes", "1", "--sampler", "random"]
    zoo("train", algorithm, *options, "-f", "optimized")
    (report,) = Path("optimized", algorithm.name).glob("report_*.csv")
    trials = report.read_text().splitlines()
    assert len(trials) == 3, trials


def tried() -> dict[str, Callable[[], None]]:
    """Every command with every algorithm, by their names."""
    commands = {"`train`": train, "`enjoy`": enjoy, "`-optimize`, two trials": optimize}
    return {
        f"{what} ({algorithm.name})": partial(command, algorithm)
        for algorithm in ALGORITHMS
        for what, command in commands.items()
    }


if __name__ == "__main__":
    attempt("rl-zoo3", "rl_zoo3", tried())
