"""Grids of patches of any height and width: sampling, rules, agents, wrappers, models, pictures."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from tests.conftest import TINY
from vit_patch_env import CountAction, ViTPatchSelectEnv, evaluate_agent
from vit_patch_env.agents import FixedRule, PatchBandit
from vit_patch_env.agents.fixed_rules.rules import RULES, CentrePatches, SpreadPatches
from vit_patch_env.agents.fixed_rules.schedules import SCHEDULES, ScheduledCount
from vit_patch_env.models.simple_vit import SimpleViT, sincos_positions
from vit_patch_env.patches.sampling import grid_of, grid_of_env, known_grid, sample_spread

GRIDS = [(10, 14), (7, 7), (14, 14), (24, 24), (1, 6), (3, 64)]


def environment(grid=(2, 4), **changes):
    size = tuple(8 * side for side in grid)
    return ViTPatchSelectEnv(**TINY | {"image_size": size, "n_patches_desired": 3, **changes})


class Other(gym.Env):
    """An environment of another library, with whatever it has as `grid`."""

    def __init__(self, n_patches=8, **attributes):
        self.observation_space = spaces.Box(0, 1, (n_patches + 3,), np.float32)
        self.action_space = spaces.MultiBinary(n_patches)
        vars(self).update(attributes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action):
        return *self.reset()[:1], 0.0, False, False, {"progress": 0.0}


@pytest.mark.parametrize("grid", GRIDS)
def test_spread_patches_are_as_likely_anywhere_and_leave_no_large_gap(grid):
    rows, columns = grid
    n_patches = rows * columns
    n_keep = max(n_patches // 4, 2)
    rng = np.random.default_rng(0)
    masks = np.array([sample_spread(np.zeros(n_patches), n_keep, rng, grid) for _ in range(600)])
    assert (masks.sum(axis=1) == n_keep).all()
    assert np.abs(masks.mean(axis=0) - n_keep / n_patches).max() < 0.1  # five standard errors
    halves = masks.reshape(-1, *grid)[:, :, : columns // 2].sum(axis=(1, 2))
    uniform = [rng.choice(n_patches, n_keep, replace=False) % columns for _ in range(600)]
    of_uniform = [(chosen < columns // 2).sum() for chosen in uniform]
    assert halves.std() < 0.95 * np.std(of_uniform)


def test_the_quarters_of_a_flat_grid_are_squares():
    """With eight patches of 2 x 4 x 4, each of the blocks of 2 x 2 has one."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = sample_spread(np.zeros(32), 8, rng, (2, 16)).reshape(1, 2, 8, 2)
        assert (mask.sum(axis=(1, 3)) == 1).all()


@pytest.mark.parametrize(
    ("grid", "expected"),
    [((2, 4), (2, 4)), ([4, 2], (4, 2)), (np.array([2, 4]), None), ((3, 3), None), ("ab", None),
     ((-2, -4), None), ((8,), None), (None, None), (object(), None), ((2.0, 4.0), None)],
)  # fmt: skip
def test_only_a_grid_of_so_many_patches_is_one(grid, expected):
    assert known_grid(8, grid) == expected
    env = Other(grid=grid)
    if expected is None:
        with pytest.raises(ValueError, match="n_patches must be a square number, got 8"):
            grid_of_env(env, 8)
    else:
        assert grid_of_env(env, 8) == expected
    assert grid_of(9) == (3, 3)


@pytest.mark.parametrize(("grid", "n_keep"), [((2, 4), 4), ((10, 14), 12), ((3, 6), 2)])
def test_the_centre_of_a_grid_is_kept(grid, n_keep):
    env = environment(grid)
    rule = CentrePatches(env.observation_space, env.action_space, n_keep=n_keep, grid=grid)
    mask = rule.predict(np.zeros(env.n_patches, np.float32))[0].reshape(grid)
    assert mask.sum() == n_keep
    assert np.array_equal(mask, mask[::-1])
    assert np.array_equal(mask, mask[:, ::-1])
    assert mask[(grid[0] - 1) // 2, (grid[1] - 1) // 2]


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_rules_and_schedules_run_on_any_grid(rows, columns):
    env = environment((rows, columns), train_fraction=0.15, batch_size=64, observation="none")
    for name in RULES:
        agent = FixedRule(name, env, n_keep=3, seed=0).learn(1)
        assert agent.predict(np.zeros(env.n_patches, np.float32))[0].sum() in (3, env.n_patches)
    for name in SCHEDULES:
        count = ScheduledCount(name, env.n_patches, 2)
        assert FixedRule("spread", env, n_keep=count, seed=0).learn(2).num_timesteps == 2


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_the_bandit_learns_on_any_grid(rows, columns):
    env = environment(
        (rows, columns), train_fraction=0.15, observation="none+run", reward="progress"
    )
    agent = PatchBandit("BanditPolicy", env, decision_steps=1, seed=0).learn(4)
    assert agent.policy.grid == (rows, columns)
    assert agent.predict(np.zeros(env.n_patches + 3, np.float32))[0].shape == (env.n_patches,)


def test_the_grid_comes_through_wrappers_and_vectorised_environments():
    def make():
        return gym.wrappers.TimeLimit(environment(), 3)

    for training_env in (make(), VecMonitor(DummyVecEnv([make, make]))):
        assert FixedRule("spread", training_env, n_keep=4).policy.grid == (2, 4)


def test_agents_fall_back_to_a_square_without_a_grid():
    for env in (Other(9), Other(9, grid="none")):
        assert FixedRule("spread", env, n_keep=4).learn(3).policy.grid is None
    with pytest.raises(ValueError, match="n_patches must be a square number, got 8"):
        FixedRule("centre", Other(8), n_keep=4)
    assert FixedRule("centre", Other(8, grid=(2, 4)), n_keep=4).policy.grid == (2, 4)


@pytest.mark.parametrize("make", [
    lambda env: FixedRule("centre", env, n_keep=2, seed=0),
    lambda env: PatchBandit("BanditPolicy", env, seed=0),
])  # fmt: skip
def test_a_saved_agent_keeps_its_grid_until_it_gets_another(make, tmp_path):
    wide, high = (environment(grid, observation="none+run") for grid in ((2, 4), (4, 2)))
    agent = make(wide)
    agent.save(tmp_path / "agent")
    alone = type(agent).load(tmp_path / "agent")
    observation = np.zeros(11, np.float32)
    expected, _ = agent.predict(observation, deterministic=True)
    assert np.array_equal(alone.predict(observation, deterministic=True)[0], expected)
    assert alone.policy.grid == (2, 4)
    assert type(agent).load(tmp_path / "agent", env=high).policy.grid == (4, 2)
    agent.set_env(high)
    assert agent.policy.grid == (4, 2)


@pytest.mark.parametrize("sampling", ["uniform", "spread", "attended"])
def test_numbers_of_patches_are_sampled_on_any_grid(sampling):
    env = CountAction(environment((2, 7)), sampling=sampling)
    env.reset(seed=0)
    assert env.step(3)[4]["n_selected"] == env.counts[3]


def test_patches_of_an_unknown_grid_cannot_be_spread():
    with pytest.raises(ValueError, match="n_patches must be a square number, got 8"):
        CountAction(Other(8), sampling="spread")
    assert CountAction(Other(8, grid=(2, 4)), sampling="spread").counts


def test_a_rule_is_evaluated_on_a_split_of_any_grid():
    env = environment((2, 4))
    agent = FixedRule("spread", env, n_keep=3, seed=0).learn(7)
    assert 0 <= evaluate_agent(agent, agent.env, "val").accuracy <= 1
    assert type(agent.policy) is SpreadPatches


def test_positions_are_those_of_rows_and_columns():
    positions = sincos_positions(2, 3, 8).reshape(2, 3, 2, 4)
    assert torch.equal(positions[0, :, 0], positions[1, :, 0])  # of columns
    assert torch.equal(positions[:, 0, 1], positions[:, 2, 1])  # of rows
    assert not torch.equal(positions[0, 0], positions[0, 1])


@pytest.mark.parametrize("keep", [None, [0, 3, 5]])
def test_a_patch_of_a_flat_image_is_embedded_where_it_is(keep):
    model = SimpleViT(n_classes=2, image_size=(8, 12), patch_size=4, dim=8, depth=1, heads=1)
    assert (model.grid, model.n_patches) == ((2, 3), 6)
    index = None if keep is None else torch.tensor(keep)
    images = torch.randn(2, 3, 8, 12)
    before = model.embed(images, index)
    images[:, :, 4:, 8:] += torch.randn(2, 3, 4, 4)  # the last patch
    changed = (model.embed(images, index) != before).any(dim=2)
    assert changed.sum(dim=1).tolist() == [1, 1]
    assert changed[:, -1].all()
