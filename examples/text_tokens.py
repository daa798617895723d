"""A text classifier at equal FLOPs: all tokens, or half of them? Prints a line for each rule.

By default a tiny BERT on docstrings of Python's standard library, for seconds. The results in
docs/text.md are of three seeds of a larger one, a minute of one core per rule and seed:

    python examples/text_tokens.py --epochs 20 --dim 64 --depth 2 --seeds 0 1 2
"""

import argparse

import gymnasium as gym

import vit_patch_env  # noqa: F401  (registers TextPatchSelect-v0)
from vit_patch_env.agents import FixedRule

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=1, help="budget: FLOPs of epochs on all tokens")
parser.add_argument("--dim", type=int, default=16)
parser.add_argument("--depth", type=int, default=1)
parser.add_argument("--seeds", type=int, nargs="+", default=[0])
values = parser.parse_args()

env = gym.make(
    "TextPatchSelect-v0", budget="flops", epochs=values.epochs, observation="none", batch_size=32,
    dim=values.dim, depth=values.depth, mlp_dim=4 * values.dim, schedule="cosine",
)  # fmt: skip
rules = {
    "all": ("all", None),
    "random half": ("random", 16),
    "growing": ("random", lambda progress: round(4 + 28 * progress**2)),
}
for seed in values.seeds:
    for name, (policy, n_keep) in rules.items():
        agent = FixedRule(policy, env, n_keep=n_keep, seed=seed)
        agent.learn(env.unwrapped.max_steps, callback=lambda now, _: not now["dones"].any())
        last = env.unwrapped.last_episode
        print(seed, name, last.run.steps_done, last.evaluate("test"), flush=True)
