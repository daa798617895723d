"""The methods that `vit-patch compare` compares: one table, each entry with its source."""

from typing import Literal, NamedTuple

from vit_patch_env.agents.bandit.options import BanditOptions
from vit_patch_env.agents.fixed_rules.growing import GrowingOptions
from vit_patch_env.experiments.options.commands import AgentOptions
from vit_patch_env.names import ModelName, RewardName
from vit_patch_env.patches.sampling import SamplingName

Group = Literal["paper", "agent", "rule", "baseline"]


class Method(NamedTuple):
    """A way of training a ViT, on all patches or on fewer.

    Attributes:
        title: in tables.
        group: from the paper, an agent of this package, a fixed rule, or a published baseline.
        source: who published it, or what it is for.
        agent: what picks the patches.
        model: what is trained.
        observation: of the agent; `none` if unused, to save its cost.
        sampling: how a schedule samples its patches.
        per_image: whether each image has patches of its own.
        reward: what the agent learns from.
        values: of the agent.
        n_keep: patches that a rule keeps, unless it follows another method.
        follows: the method whose run of the same seed determines how many patches to keep.
    """

    title: str
    group: Group
    source: str
    agent: str = "all"
    model: ModelName = "simple_vit"
    observation: str = "none"
    sampling: SamplingName = "uniform"
    per_image: bool = False
    reward: RewardName = "paper"
    values: AgentOptions = AgentOptions()
    n_keep: int | None = None
    follows: str | None = None


def _growing(
    denominator: int, power: float | None, all_share: float = 0.0, *, last: float = 1.0
) -> Method:
    """A growing number of spread patches."""
    title = f"{'Constant' if power is None else 'From'} 1/{denominator}"
    if last < 1:
        title += f" to {last:g}"
    if power is not None:
        title += f", power {power:g}"
    if all_share:
        title += f", then all for {all_share:.0%}"
    options = GrowingOptions(
        first_share=1 / denominator, power=power, last_share=last, all_share=all_share
    )
    return Method(
        title, "rule", "a schedule of the family `growing`, spread over the image",
        agent="growing", sampling="spread", values=AgentOptions(growing=options),
    )  # fmt: skip


FAMILY: dict[str, Method] = {
    **{f"constant_{d}": _growing(d, None) for d in (2, 4, 8, 16)},
    **{
        f"from_{d}_power_{power}": _growing(d, power)
        for d, power in (
            (2, 2), (4, 1), (4, 2), (4, 4), (8, 2), (8, 4),
            (16, 1), (16, 2), (16, 4), (16, 8), (32, 2), (32, 4), (32, 8),
        )
    },
    **{
        f"from_{d}_to_{round(100 * last)}_power_{power}": _growing(d, power, last=last)
        for d, power, last in ((16, 1, 0.5), (16, 2, 0.5), (8, 1, 0.75))
    },
    **{f"constant_{d}_then_all": _growing(d, None, 0.2) for d in (2, 4, 8, 16, 32)},
}  # fmt: skip
"""Fixed rules of one family, which are searched for the best one of a task."""

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
        "Schedule bandit, pre-trained", "agent",
        "ScheduleBandit that learned from finished runs on a set of tasks and no longer learns",
        agent="pretrained", observation="none+run",
    ),
    "bandit": Method(
        "Bandit, from scratch", "agent",
        "PatchBandit that learns within the run, from the validation loss every 50 steps",
        agent="bandit", observation="none+run", reward="validation",
        values=AgentOptions(bandit=BanditOptions(decision_steps=50)),
    ),
    "random": Method(
        "Random, per batch", "rule",
        "uniform, sampled per batch, as many as AgentViT on average",
        agent="random", follows="agentvit",
    ),
    "random_matched": Method(
        "Random, as AgentViT", "rule",
        "the matched control: uniform, sampled per batch, exactly as many as AgentViT in each step",
        agent="matched", follows="agentvit",
    ),
    "random_per_image": Method(
        "PatchDropout", "rule",
        "Liu et al. 2022, arXiv:2208.07220: sampled per image, as many as AgentViT on average",
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
        "EViT", "baseline",
        "Liang et al. 2022, arXiv:2202.07800: most attended tokens kept, the others fused",
        model="evit",
    ),
    "tome": Method(
        "ToMe", "baseline", "Bolya et al. 2023, arXiv:2210.09461: bipartite merging", model="tome"
    ),
    "patch_merger": Method(
        "PatchMerger", "baseline", "Renggli et al. 2022, arXiv:2202.12015", model="patch_merger"
    ),
    "pss": Method(
        "PSS, cyclic", "baseline",
        "patch sampling schedule, McDanel and Huynh 2022, arXiv:2208.09520, cycles of an epoch",
        agent="pss",
    ),
    "pss_linear": Method(
        "PSS, growing", "baseline",
        "patch sampling schedule, McDanel and Huynh 2022, arXiv:2208.09520, growing over the run",
        agent="pss_linear",
    ),
    "token_expansion": Method(
        "Token Expansion", "baseline", "Huang et al. 2024, arXiv:2404.00672",
        model="token_expansion",
    ),
    "quadratic": Method(
        "Growing, squared", "rule",
        "from 1/16 of the patches to all with the square of the progress: our own schedule",
        agent="quadratic",
    ),
    "quadratic_spread": Method(
        "Growing, squared, spread", "rule",
        "as Growing, squared, its patches spread over the image (GRTS, Stevens and Olsen 2004)",
        agent="quadratic", sampling="spread",
    ),
    "quadratic_per_image": Method(
        "Growing, squared, per image", "rule",
        "as Growing, squared, spread, moved over each image by rows and columns of its own",
        agent="quadratic", sampling="spread", per_image=True,
    ),
    **{
        f"random{n_keep}": Method(
            f"Random {n_keep}", "rule", "uniform, sampled per batch", agent="random", n_keep=n_keep
        )
        for n_keep in (48, 32, 24, 16, 12, 8, 6, 4)
    },
    **FAMILY,
    "flip": Method(
        "FLIP", "baseline",
        "Li et al. 2023, arXiv:2212.00794: random dropping, then a short phase with all patches",
        agent="flip",
    ),
}  # fmt: skip
