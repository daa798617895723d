"""`vit-patch zoo`: rl_zoo3 trains, optimises and shows this package's agents."""

import inspect
import sys
import warnings

import gymnasium as gym
import pytest
import stable_baselines3
from sb3_contrib import TRPO

from tests.test_cli import refused
from tests.test_packaging import cpu_seconds
from vit_patch_env import ENV_ID
from vit_patch_env.agents import FixedRule, MultiOutputDQN, PatchBandit
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.zoo import ZOO_ENV_ID
from vit_patch_env.experiments.zoo.command import HYPERPARAMS, defaults

ALGORITHMS = {
    "ppo": stable_baselines3.PPO,
    "a2c": stable_baselines3.A2C,
    "trpo": TRPO,
    "dqn": stable_baselines3.DQN,
    "multi_output_dqn": MultiOutputDQN,
    "patch_bandit": PatchBandit,
    "fixed_rule": FixedRule,
}
OF_ZOO = {"n_timesteps", "env_wrapper", "monitor_kwargs"}
"""Values that rl_zoo3 itself uses."""

TINY = ["--env-kwargs", "dataset:'synthetic'", "dim:16", "depth:1", "mlp_dim:16", "epochs:1"]


@pytest.fixture(scope="module")
def registered():
    """The tables of rl_zoo3 with this package's agents."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages that rl_zoo3 imports
        pytest.importorskip("rl_zoo3.train", reason="needs the extra zoo")
        from vit_patch_env.experiments.zoo import algorithms
    algorithms.register()
    return algorithms


@pytest.fixture
def zoo(registered, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder of its own, and returns what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vit-patch"])

    def run(*words):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as rl_zoo3's modules warn at import
            main(["zoo", *words])
        return capsys.readouterr().out

    return run


def file_of(algo):
    yaml = pytest.importorskip("yaml", reason="needs the extra zoo")
    return yaml.safe_load((HYPERPARAMS / f"{algo}.yml").read_text())


def test_the_words_after_the_script_are_its_own():
    words = ["--algo", "ppo", "--help", "--eps-end=3", "-params", "gamma:0.9", "--preset"]
    options = parse(["zoo", "enjoy", *words])
    assert (options.script, options.args) == ("enjoy", tuple(words))
    assert parse(["zoo", "train"]).args == ()


def test_another_script_is_refused_in_one_line(capsys):
    assert "must be one of train, enjoy, record_video, got 'trian'" in refused(
        capsys, "zoo", "trian"
    )


@pytest.mark.parametrize("script", ["train", "enjoy"])
def test_without_rl_zoo3_the_extra_is_named(script, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    line = refused(capsys, "zoo", script, "--algo", "ppo")
    assert "zoo needs the extra zoo, pip install 'vit-patch-env[zoo]', got: " in line


def test_its_help_needs_no_torch():
    code = (
        "from vit_patch_env.experiments.cli import main\n"
        "try: main(['zoo', '--help'])\n"
        "except SystemExit: pass"
    )
    assert not cpu_seconds(code)[1]


@pytest.mark.parametrize(
    ("args", "algo"),
    [
        ([], "ppo"),
        (["--algo", "dqn"], "dqn"),
        (["--algo=patch_bandit", "-n", "5"], "patch_bandit"),
        (["--env", ENV_ID, "--algo", "trpo"], "trpo"),
        (["--env", "CartPole-v1"], None),
        (["--algo", "sac"], None),
        (["--algo"], None),
        (["--alg", "fixed_rule"], "fixed_rule"),
        (["--al=dqn", "--env-kwargs", "epochs:5"], "dqn"),
        (["--env-kwargs", "epochs:5", "--eval-freq", "-1"], "ppo"),
    ],
)
def test_our_values_are_those_of_our_environments(args, algo):
    file = ["--conf-file", str(HYPERPARAMS / f"{algo}.yml")] if algo else []
    assert defaults("train", args) == ["--env", ZOO_ENV_ID, *file]


def test_agents_are_shown_from_where_they_were_trained():
    assert defaults("enjoy", ["--algo", "dqn"]) == ["--env", ZOO_ENV_ID, "--folder", "logs"]


def test_every_file_has_its_algorithm():
    assert {path.stem for path in HYPERPARAMS.iterdir()} == set(ALGORITHMS)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_values_of_a_file_are_its_algorithms(algo):
    values = file_of(algo)
    assert set(values) == {ENV_ID, ZOO_ENV_ID}
    known = set(inspect.signature(ALGORITHMS[algo]).parameters)
    for of_env in values.values():
        assert {"policy", "n_timesteps"} <= set(of_env) <= known | OF_ZOO
    assert values[ENV_ID]["policy"] == values[ZOO_ENV_ID]["policy"]


def test_an_agent_is_trained_and_shown(zoo):
    shown = zoo("train", "--algo", "multi_output_dqn", "-n", "60", "--seed", "1", *TINY)
    assert "Saving to logs/multi_output_dqn/ViTPatchSelectDigits-v0_1" in shown
    assert "vit/" in shown
    shown = zoo("enjoy", "--algo", "multi_output_dqn", "-n", "20", "--no-render")
    assert "Episode Length" in shown
    assert "Success rate: " in shown


@pytest.mark.parametrize("algo", sorted(set(ALGORITHMS) - {"multi_output_dqn"}))
def test_every_algorithm_starts_with_its_values(algo, zoo):
    small = [] if algo not in ("ppo", "trpo", "a2c") else ["-params", "n_steps:16"]
    shown = zoo("train", "--algo", algo, "-n", "16", "--eval-freq", "-1", *TINY, *small)
    assert f"Saving to logs/{algo}/ViTPatchSelectDigits-v0_1" in shown


@pytest.mark.parametrize("algo", ["multi_output_dqn", "patch_bandit", "fixed_rule"])
def test_our_agents_are_optimised(algo, zoo):
    shown = zoo(
        "train", "--algo", algo, "--optimize-hyperparameters", "-n", "16", "--n-trials", "2",
        "--n-evaluations", "1", "--eval-episodes", "1", "--no-optim-plots", "--seed", "1",
        *TINY,
    )  # fmt: skip
    assert "Number of finished trials:  2" in shown
    assert "Best trial:" in shown


def test_a_value_that_is_refused_is_named_in_one_line(zoo, capsys):
    with pytest.raises(SystemExit) as stop:
        zoo("train", "--env-kwargs", "dim:7", "device:'cpu'")
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("dim must be divisible by 4, got 7")


def test_sampled_values_become_the_arguments_of_the_agent(registered):
    from optuna.trial import FixedTrial

    values = {
        "forgetting": 0.9, "n_stages": 3, "prior_precision": 1.0, "score_precision": 10.0,
        "sampling": "uniform",
    }  # fmt: skip
    sampled = registered.HYPERPARAMS_SAMPLER["patch_bandit"](FixedTrial(values), 0, 1, {})
    assert sampled == registered.HYPERPARAMS_CONVERTER["patch_bandit"](values)
    agent = PatchBandit("BanditPolicy", gym.make(ZOO_ENV_ID), **sampled)
    assert (agent.forgetting, agent.policy.n_stages) == (0.9, 3)


def test_rl_zoo3s_own_samplers_are_unchanged(registered):
    sampler = registered.HYPERPARAMS_SAMPLER["ppo"]
    assert sampler.__module__ == "rl_zoo3.hyperparams_opt"
