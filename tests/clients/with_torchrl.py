"""TorchRL: its check, a rollout, and its collector, which steps under `torch.no_grad`."""

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl import collectors
from torchrl.envs import GymEnv, GymWrapper, ParallelEnv, check_env_specs

import vit_patch_env
from tests.clients.attempts import N_STEPS, TINY, attempt

COLLECTOR = "Collector" if hasattr(collectors, "Collector") else "SyncDataCollector"  # before 0.14
OF_TORCHRL = {"batch_size", "device"}


def make() -> GymWrapper:
    return GymWrapper(gym.make(vit_patch_env.ENV_ID, **TINY))


def by_name() -> None:
    given = {f"train_{name}" if name in OF_TORCHRL else name: TINY[name] for name in TINY}
    assert GymEnv(vit_patch_env.ENV_ID, **given).rollout(100).batch_size == (N_STEPS,)


def rollout() -> None:
    done = make().rollout(100)
    assert done.batch_size == (N_STEPS,)
    assert done["next", "truncated"][-1].item()
    assert done["next", "reward"].isfinite().all()


def read_info() -> None:
    env = GymWrapper(vit_patch_env.NumPyInfo(make().env)).auto_register_info_dict()
    losses = env.rollout(100)["next", "loss"]
    assert losses.isfinite().all()
    assert losses.unique().numel() == N_STEPS


def collect() -> None:
    """Two episodes and a part of a third, in batches that do not end where episodes do."""
    policy = TensorDictModule(
        nn.Sequential(nn.Linear(16, 16), RandomMask()), in_keys=["observation"], out_keys=["action"]
    )
    collector = getattr(collectors, COLLECTOR)(make, policy, frames_per_batch=20, total_frames=40)
    batches = list(collector)
    collector.shutdown()
    assert [len(batch) for batch in batches] == [20, 20]
    frames = torch.cat(batches)
    ends = frames["next", "done"].flatten().nonzero().flatten().tolist()
    assert ends == [N_STEPS - 1, 2 * N_STEPS - 1]
    assert not frames["next", "reward"].requires_grad
    assert frames["observation"].unique(dim=0).shape[0] == 40, "the ViT must train"


class RandomMask(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return torch.bernoulli(logits.sigmoid()).to(torch.int8)


def parallel() -> None:
    env = ParallelEnv(2, make)
    assert env.rollout(100, break_when_any_done=False).batch_size == (2, 100)
    env.close()


if __name__ == "__main__":
    attempt(
        "TorchRL",
        "torchrl",
        {
            "`check_env_specs`": lambda: check_env_specs(make()),
            "`rollout` of `GymWrapper`": rollout,
            "of `GymEnv` by name": by_name,
            "with `auto_register_info_dict`": read_info,
            "of `ParallelEnv`": parallel,
            f"`{COLLECTOR}` under `no_grad`": collect,
        },
    )
