"""The methods that `vit-patch compare` compares: one table, each entry with its source."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vit_patch_env.experiments.options.commands import EnvOptions, TrainOptions
from vit_patch_env.experiments.runs.folder import RunFolder
from vit_patch_env.patches.grid import patches_per_side

Group = Literal["paper", "agent", "rule", "rival"]


class Method(NamedTuple):
    """A way of training a ViT, on all patches or on fewer.

    Attributes:
        title: in tables.
        group: of the paper, an agent of ours, a fixed rule, or a rival.
        source: who published it, or what it is for.
        agent: what picks the patches.
        model: what is trained.
        observation: what the agent sees; those that do not look are spared its cost.
        draw: how the patches of a schedule are drawn.
        reward: what the agent learns from.
        sb3: values of the agent.
        n_keep: patches that a rule keeps, if not as many as a method that it follows.
        follows: the method whose run of the same seed says how many patches to keep.
    """

    title: str
    group: Group
    source: str
    agent: str = "all"
    model: str = "simple_vit"
    observation: str = "none"
    draw: str = "uniform"
    reward: str = "paper"
    sb3: tuple[str, ...] = ()
    n_keep: int | None = None
    follows: str | None = None


METHODS: dict[str, Method] = {
    "vit": Method(
        "OriginalViT", "paper",
        "Dosovitskiy et al. 2021, arXiv:2010.11929: class token, learned positions, all patches",
        model="vit",
    ),
    "simple_vit": Method(
        "SimpleViT64", "paper", "Beyer et al. 2022, arXiv:2205.01580: all patches"
    ),
    "ats_vit": Method(
        "ATSViT", "paper",
        "Adaptive Token Sampling, Fayyaz et al. 2022, arXiv:2111.15667, on the original ViT",
        model="ats_vit",
    ),
    "agentvit": Method(
        "AgentViT", "paper", "Cauteruccio et al. 2024: the paper's agent with Table 1's values",
        agent="paper", observation="attention_output",
    ),
    "agentvit_branching": Method(
        "AgentViT, branching", "paper",
        "the same with action branching, Tavakoli et al. 2018, arXiv:1711.08946",
        agent="branching", observation="attention_output",
    ),
    "agentvit_ppo": Method(
        "AgentViT, PPO", "paper",
        "the same environment with PPO, Schulman et al. 2017, arXiv:1707.06347",
        agent="ppo", observation="attention_output",
    ),
    "pretrained": Method(
        "Bandit, pre-trained", "agent",
        "PatchBandit that learned over short runs of a smaller ViT, frozen",
        agent="pretrained", observation="none+run",
    ),
    "bandit": Method(
        "Bandit, from scratch", "agent",
        "PatchBandit that learns within the run, by the held-out loss every 50 steps",
        agent="bandit", observation="none+run", reward="validation", sb3=("decision_steps=50",),
    ),
    "random": Method(
        "Random, per batch", "rule",
        "uniform, drawn per batch, as many as AgentViT on average",
        agent="random", follows="agentvit",
    ),
    "random_matched": Method(
        "Random, as AgentViT", "rule",
        "the matched control: uniform, drawn per batch, exactly as many as AgentViT in each step",
        agent="matched", follows="agentvit",
    ),
    "random_per_image": Method(
        "PatchDropout", "rule",
        "Liu et al. 2022, arXiv:2208.07220: drawn per image, as many as AgentViT on average",
        model="patch_dropout", follows="agentvit",
    ),
    "centre": Method(
        "Centre", "rule", "the patches nearest the centre, as many as AgentViT on average",
        agent="centre", follows="agentvit",
    ),
    "attended": Method(
        "Most attended", "rule",
        "the highest values of AgentViT's observation, as many as AgentViT on average",
        agent="attended", observation="attention_output", follows="agentvit",
    ),
    "evit": Method(
        "EViT", "rival",
        "Liang et al. 2022, arXiv:2202.07800: most attended tokens kept, the others fused",
        model="evit",
    ),
    "tome": Method(
        "ToMe", "rival", "Bolya et al. 2023, arXiv:2210.09461: bipartite merging", model="tome"
    ),
    "patch_merger": Method(
        "PatchMerger", "rival", "Renggli et al. 2022, arXiv:2202.12015", model="patch_merger"
    ),
    "pss": Method(
        "PSS, cyclic", "rival",
        "patch sampling schedule, McDanel and Huynh 2022, arXiv:2208.09520, cycles of an epoch",
        agent="pss",
    ),
    "pss_linear": Method(
        "PSS, growing", "rival",
        "patch sampling schedule, McDanel and Huynh 2022, arXiv:2208.09520, growing over the run",
        agent="pss_linear",
    ),
    "token_expansion": Method(
        "Token Expansion", "rival", "Huang et al. 2024, arXiv:2404.00672", model="token_expansion"
    ),
    "quadratic": Method(
        "Growing, squared", "rule",
        "a sixteenth of the patches growing with the square of the progress to all: ours, by hand",
        agent="quadratic",
    ),
    "quadratic_spread": Method(
        "Growing, squared, spread", "rule",
        "as Growing, squared, its patches spread over the image (GRTS, Stevens and Olsen 2004)",
        agent="quadratic", draw="spread",
    ),
    **{
        f"random{n_keep}": Method(
            f"Random {n_keep}", "rule", "uniform, drawn per batch", agent="random", n_keep=n_keep
        )
        for n_keep in (48, 32, 24, 16, 12, 8, 6, 4)
    },
    "flip": Method(
        "FLIP", "rival",
        "Li et al. 2023, arXiv:2212.00794: random dropping, then a short phase with all patches",
        agent="flip",
    ),
}  # fmt: skip


def method_options(
    name: str, seed: int, env: EnvOptions, out: Path, followed: RunFolder | None = None
) -> TrainOptions:
    """The options of a method's run.

    Args:
        name: of the method.
        seed: of the run.
        env: what all runs share.
        out: the run's folder.
        followed: the finished run that this one follows, where the method follows another.

    Raises:
        ValueError: if the followed run is not finished.
    """
    method = METHODS[name]
    changes: dict[str, Any] = {"model": method.model, "observation": method.observation}
    changes["reward"] = method.reward
    if method.n_keep is not None:
        changes["n_patches_desired"] = method.n_keep
    if followed is not None and method.agent != "matched":
        n_keep = round(followed.read_result()["n_selected_mean"])
        changes["n_patches_desired"] = n_keep
        if method.model == "patch_dropout":
            n_patches = patches_per_side(env.image_size, env.patch_size) ** 2
            changes["keep_rate"] = n_keep / n_patches
    return TrainOptions(
        agent=method.agent,
        sb3=method.sb3,
        draw=method.draw,
        seed=seed,
        out=str(out),
        follow=str(followed.path) if followed and method.agent == "matched" else None,
        overwrite=True,
        env=replace(env, **changes),
    )
