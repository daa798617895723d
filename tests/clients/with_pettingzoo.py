"""PettingZoo: its tests of the environment in which every patch is an agent."""

import gymnasium as gym
from pettingzoo.test import parallel_api_test, parallel_seed_test

import vit_patch_env
from tests.clients.attempts import TINY, attempt
from vit_patch_env.multi_agent import PatchAgents

OBSERVATIONS = ("attention_output", "attention_standardized", "attention_received+run")


def make(observation: str) -> PatchAgents:
    return PatchAgents(gym.make(vit_patch_env.ENV_ID, **TINY, observation=observation))


def api() -> None:
    for observation in OBSERVATIONS:
        parallel_api_test(make(observation), num_cycles=100)


def seed() -> None:
    for observation in OBSERVATIONS:
        parallel_seed_test(lambda name=observation: make(name), num_cycles=20)


if __name__ == "__main__":
    attempt("PettingZoo", "pettingzoo", {"`parallel_api_test`": api, "`parallel_seed_test`": seed})
