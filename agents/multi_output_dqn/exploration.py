"""The exponential decay of ε and its time constant in the AgentViT paper."""

import math

PAPER_DECAY_STEPS = 20_000.0
"""The paper's time constant of ε, in environment steps."""

PAPER_TIMESTEPS = 39_000
"""Environment steps of the paper's run."""


def exponential_epsilon(step: int, initial: float, final: float, decay_steps: float) -> float:
    """ε after `step` steps: exponential decay from `initial` to `final`.

    Args:
        step: number of environment steps so far.
        initial: ε at step 0 (the paper's ε_start).
        final: limit of ε (the paper's ε_end).
        decay_steps: time constant, in steps.
    """
    return final + (initial - final) * math.exp(-step / decay_steps)


def default_decay_steps(total_timesteps: float) -> float:
    """The paper's time constant in steps, scaled down for a run shorter than the paper's."""
    return PAPER_DECAY_STEPS * min(1.0, total_timesteps / PAPER_TIMESTEPS)
