"""Fixed rules at equal FLOPs: how many random patches, and when? Prints a line for each rule.

By default a tiny ViT on digits, for seconds. The results in docs/research.md are of the ViT of
`table2-cpu` on half of CIFAR-10 (minutes per rule):

    python examples/growing_schedules.py --data-dir CIFAR10 --epochs 4 --rules 4-64-2 8-8-1
"""

import argparse

import gymnasium as gym

import vit_patch_env  # noqa: F401  (registers ViTPatchSelect-v0)
from vit_patch_env.agents import FixedRule

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data-dir", help="a folder of images with train/ and test/")
parser.add_argument(
    "--epochs",
    type=int,
    default=2,
    help="a run's budget: the FLOPs of this many epochs on all patches",
)
parser.add_argument(
    "--rules",
    nargs="+",
    default=["64-64-1", "16-16-1", "8-64-2"],
    help="first-last-power: numbers of patches at the start and end, and the progress's exponent",
)
parser.add_argument("--sampling", choices=("uniform", "spread"), default="uniform")
parser.add_argument("--seed", type=int, default=0)
values = parser.parse_args()

options = {"dim": 32, "depth": 2, "heads": 2, "dim_head": 16, "mlp_dim": 64}
if values.data_dir:
    options = {
        "dataset": "folder", "data_dir": values.data_dir, "train_fraction": 0.5, "batch_size": 128,
        "dim": 64, "depth": 4, "heads": 4, "dim_head": 16, "mlp_dim": 128, "optimizer": "adamw",
        "learning_rate": 2e-3, "weight_decay": 0.05, "schedule": "cosine",
    }  # fmt: skip
env = gym.make(
    "ViTPatchSelect-v0", budget="flops", epochs=values.epochs, observation="none", **options
)
for rule in values.rules:
    first, last, power = (float(number) for number in rule.split("-"))
    agent = FixedRule(
        "spread" if values.sampling == "spread" else "random",
        env,
        n_keep=lambda progress: round(first + (last - first) * progress**power),  # noqa: B023
        seed=values.seed,
    )
    agent.learn(env.unwrapped.max_steps, callback=lambda now, _: not now["dones"].any())
    print(rule, env.unwrapped.last_episode.evaluate("val"))
