"""What environments answered since a rollout began: remembered, and said again."""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor


class _Answer(NamedTuple):
    """What came of a step, and where torch's global generator was behind it, if it was moved."""

    observations: Any
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]
    generator: Tensor | None


class AnswerRecorder(VecEnvWrapper):
    """Remembers answers since the last `forget`; after `repeat`, says those given first.

    An algorithm that is put back to where its rollout began, and hears the same answers, comes to
    the same point again: so a rollout can be broken off in its middle and taken up again, whatever
    the algorithm.

    Args:
        venv: the environments.

    Attributes:
        answers: since the last `forget`.
        remembers: whether to remember any.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.reset_infos = venv.reset_infos  # which wrappers do not pass on by themselves
        self.answers: list[_Answer] = []
        self.remembers = True
        self._again: deque[_Answer] = deque()

    @property
    def n_again(self) -> int:
        """Answers that are still to be said again."""
        return len(self._again)

    def forget(self) -> None:
        """Begin anew: a rollout has begun."""
        self.answers.clear()

    def repeat(self, answers: list[Any]) -> None:
        """Give these answers, in place of the environments, to the next steps."""
        self._again.extend(_Answer(*answer) for answer in answers)

    def reset(self) -> VecEnvObs:
        """As the environments do."""
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Pass on the actions, unless what comes of them is known."""
        if not self._again:
            self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """What comes of the actions, or came of them before."""
        if self._again:
            answer = self._again.popleft()
            if answer.generator is not None:
                torch.set_rng_state(answer.generator)
        elif not self.remembers:
            return self.venv.step_wait()
        else:
            before = torch.get_rng_state()
            observations, rewards, dones, infos = self.venv.step_wait()
            after = torch.get_rng_state()
            moved = None if torch.equal(before, after) else after  # as by a user's model
            answer = _Answer(observations, rewards, dones, list(infos), moved)
        self.answers.append(answer)
        # Copies, as on-policy algorithms add to the rewards of steps that end an episode.
        return answer.observations, answer.rewards.copy(), answer.dones.copy(), answer.infos
