"""The environment over the tokens of a text classifier: TextPatchSelect-v0."""

import importlib.util
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_with_sb3

import vit_patch_env
from vit_patch_env import ViTPatchSelectEnv, bert_encoder, from_texts, text_env
from vit_patch_env.agents import FixedRule, MultiOutputDQN, PatchBandit
from vit_patch_env.data.texts import CLASS_TOKEN, PADDING
from vit_patch_env.experiments.figures.files import draw_pictures, figure_files
from vit_patch_env.experiments.figures.numbers import Evaluations, figures
from vit_patch_env.models.text_encoder import TextEncoder

pytest.importorskip("transformers")

N_TOKENS = 9
RNG = np.random.default_rng(0)
CLASSES = ("red", "green", "blue")
LABELS = [i % 3 for i in range(150)]
TEXTS = [
    # The colour is somewhere among fillers, of which there are 3 to 7: some texts are padded.
    " ".join(RNG.permutation([CLASSES[label], *RNG.choice(list("vwxyz"), RNG.integers(3, 8))]))
    for label in LABELS
]
DATA = from_texts(TEXTS, LABELS, CLASSES, n_tokens=N_TOKENS)
MODEL = partial(bert_encoder, n_tokens=N_TOKENS, dim=16, depth=2, heads=2, mlp_dim=32)
TINY = {"dataset": DATA, "model": MODEL, "batch_size": 16, "epochs": 2, "precision": "fp32"}
DOCSTRINGS = {"n_tokens": 8, "n_words": 50, "dim": 8, "depth": 1, "heads": 1, "mlp_dim": 8}


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return MODEL(3, DATA.channels).eval()


@pytest.fixture
def ids():
    texts = DATA.train.images[:8]
    assert (texts == PADDING).any()
    return texts


def with_class_token(ids):
    return torch.cat((torch.full((len(ids), 1), CLASS_TOKEN), ids), dim=1)


def run(env, n_keep=None, seed=0):
    """The losses and observations of an episode on the first tokens."""
    env.reset(seed=seed)
    mask = np.arange(N_TOKENS) < (n_keep or N_TOKENS)
    steps = [env.step(mask)]
    while not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(mask))
    return [(step[4]["loss"], step[0].tolist()) for step in steps]


def test_all_tokens_are_as_in_the_librarys_own_model(encoder, ids):
    own = with_class_token(ids)
    expected = encoder.plain_model(input_ids=own, attention_mask=own != PADDING).logits
    torch.testing.assert_close(encoder(ids), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("keep", [[0], [1, 4, 8], list(range(1, 9)), list(range(9))])
def test_dropping_tokens_is_as_masking_them_in_the_librarys_own_model(encoder, ids, keep):
    own = with_class_token(ids)
    mask = torch.zeros_like(own)
    mask[:, [0, *(one + 1 for one in keep)]] = 1
    expected = encoder.plain_model(input_ids=own, attention_mask=mask * (own != PADDING)).logits
    torch.testing.assert_close(encoder(ids, torch.tensor(keep)), expected, atol=1e-5, rtol=0)


def test_each_text_may_keep_its_own_tokens(encoder, ids):
    keep = torch.stack([torch.tensor([one % 3, 3, 5]) for one in range(len(ids))])
    logits = encoder(ids, keep)
    for own, text, expected in zip(keep, ids, logits, strict=True):
        torch.testing.assert_close(encoder(text[None], own)[0], expected, atol=1e-5, rtol=0)


def test_padding_changes_nothing_and_what_it_would_attend_to_is_not_seen(encoder, ids):
    longer = TextEncoder(encoder.plain_model, N_TOKENS)
    longest = int((ids != PADDING).sum(dim=1).max())
    keep = torch.arange(longest)
    torch.testing.assert_close(longer(ids, keep), encoder(ids), atol=1e-5, rtol=0)
    assert (encoder.first_attention(ids)[ids == PADDING] == 0).all()
    assert (encoder.first_attention(ids)[ids != PADDING] != 0).any(dim=1).all()


def test_gradients_reach_every_weight_but_those_of_dropped_words(encoder, ids):
    encoder(ids, torch.tensor([2, 3])).sum().backward()
    missing = [name for name, weight in encoder.named_parameters() if weight.grad is None]
    assert not missing
    words = encoder.plain_model.bert.embeddings.word_embeddings.weight.grad
    kept = {CLASS_TOKEN, *ids[:, 2:4].flatten().tolist()} - {PADDING}
    assert set(words.abs().sum(dim=1).nonzero().flatten().tolist()) == kept


def test_attention_is_that_of_the_librarys_first_layer(encoder, ids):
    plain = encoder.plain_model
    plain.set_attn_implementation("eager")
    own = with_class_token(ids)
    output = plain(input_ids=own, attention_mask=own != PADDING, output_attentions=True)
    expected = output.attentions[0]  # (batch, heads, queries, keys)
    found = encoder.class_attention(ids)
    torch.testing.assert_close(found, expected[:, :, 0, 1:].mean(dim=1), atol=1e-6, rtol=0)
    weights = encoder.first_attention_weights(ids)
    among_words = expected[:, :, 1:, 1:] / expected[:, :, 1:, 1:].sum(dim=-1, keepdim=True)
    real = (ids != PADDING)[:, None, :, None].expand_as(weights)
    torch.testing.assert_close(weights[real], among_words[real], atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(8, 2, 9), atol=1e-6, rtol=0)
    assert (weights.transpose(2, 3)[(~real)] == 0).all()


def test_gymnasium_and_stable_baselines_find_nothing_to_complain_about(recwarn):
    env = ViTPatchSelectEnv(**TINY, observation="attention_received", render_mode="rgb_array")
    check_env(env)
    check_with_sb3(env)
    others = [one for one in recwarn if "registered" not in str(one.message)]
    assert all("spec" in str(one.message) or "render" in str(one.message) for one in others)


@pytest.mark.long
def test_the_registered_environment_can_be_made_of_its_specification_in_json():
    env = gym.make(vit_patch_env.TEXT_ENV_ID, **DOCSTRINGS, observation="none")
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    for one in (env, again):
        one.reset(seed=0)
    losses = [one.step(np.ones(8, dtype=np.int8))[4]["loss"] for one in (env, again)]
    assert losses[0] == losses[1]
    assert again.unwrapped.data.digest() == env.unwrapped.data.digest()
    assert env.unwrapped.data.classes[0] == "asyncio"


@pytest.mark.one_in(6)
@pytest.mark.parametrize("name", ["attention_output", "attention_received", "none+run"])
def test_the_same_seed_gives_the_same_run(name):
    one, other = (ViTPatchSelectEnv(**TINY, observation=name) for _ in range(2))
    assert run(one, 4) == run(other, 4)
    assert run(one, 4, seed=1) != run(other, 4)


def test_the_callers_default_type_changes_nothing():
    expected = run(ViTPatchSelectEnv(**TINY))
    torch.set_default_dtype(torch.float64)
    try:
        assert run(ViTPatchSelectEnv(**TINY)) == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_saved_run_resumes_as_if_it_had_not_been_interrupted(tmp_path):
    env, other = ViTPatchSelectEnv(**TINY), ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    env.step(np.arange(N_TOKENS) < 5)
    env.save(tmp_path / "run")
    other.load(tmp_path / "run")
    mask = np.arange(N_TOKENS) > 2
    assert env.step(mask)[4] == other.step(mask)[4]
    assert env.evaluate("val") == other.evaluate("val")


def test_a_run_of_other_texts_is_not_resumed():
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    data = from_texts(TEXTS, LABELS, CLASSES, n_tokens=N_TOKENS, seed=1)
    with pytest.raises(ValueError, match="texts must be that of the saved run"):
        ViTPatchSelectEnv(**TINY | {"dataset": data}).load_state_dict(env.state_dict())


def test_fewer_tokens_allow_more_steps_in_a_budget_of_flops():
    env = ViTPatchSelectEnv(**TINY, budget="flops", observation="none")
    n_all, n_few = len(run(env)), len(run(env, 4))
    assert n_all == env.budget_steps
    assert n_few > 1.8 * n_all
    assert env.episode.flops() > 0
    assert not env.episode.run.flop_meter._counter.computed  # from shapes alone


def test_a_budget_of_seconds_ends(clock):
    clock.tick = 0.1
    env = ViTPatchSelectEnv(**TINY, budget="seconds", seconds=2.0)
    assert 1 < len(run(env)) < 20


@pytest.mark.one_in(4)
@pytest.mark.parametrize("reward", ["paper", "validation", "progress", "aic"])
def test_every_reward_is_given(reward):
    env = ViTPatchSelectEnv(**TINY, reward=reward, reward_every=2, observation="none")
    env.reset(seed=0)
    rewards = [env.step(env.action_space.sample())[1] for _ in range(4)]
    assert np.isfinite(rewards).all()
    assert any(rewards)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "make_agent",
    [
        partial(PPO, "MlpPolicy", n_steps=8, batch_size=8, n_epochs=1),
        partial(MultiOutputDQN, "MlpPolicy"),
        partial(PatchBandit, "BanditPolicy"),
        partial(FixedRule, "spread", n_keep=4),
    ],
    ids=["ppo", "multi_output_dqn", "bandit", "spread"],
)
def test_agents_train(make_agent):
    env = ViTPatchSelectEnv(**TINY, observation="attention_output+run")
    make_agent(env=env, seed=0).learn(20)
    assert env.last_episode.progress == 1


@pytest.mark.long
def test_a_classifier_learns_from_a_part_of_the_tokens():
    env = ViTPatchSelectEnv(**TINY | {"epochs": 40}, learning_rate=6e-3, observation="none")
    agent = FixedRule("random", env, n_keep=6, seed=0)
    agent.learn(env.max_steps, callback=lambda now, _: not now["dones"].any())
    assert env.last_episode.evaluate("test").accuracy > 0.8  # guesses: 0.33


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image_size", 64, "(1, 9)"),
        ("patch_size", 2, "1"),
        ("augment", "randaugment", "none"),
        ("flip", True, "None"),
        ("mixup", 0.2, "0.0"),
        ("random_erasing", 0.5, "0.0"),
        ("mean", (0.5,), "None"),
    ],
)
def test_what_changes_images_is_refused(name, value, expected):
    with pytest.raises(ValueError, match=name) as caught:
        ViTPatchSelectEnv(**TINY, **{name: value})
    got = f"'{value}'" if isinstance(value, str) else value
    assert str(caught.value) == f"{name} must be {expected} where dataset is of texts, got {got}"


def test_the_arguments_say_that_texts_are_rows_of_tokens_as_they_are():
    env = ViTPatchSelectEnv(**TINY)
    assert (env.n_patches, env.grid, env.image_size) == (9, (1, 9), (1, 9))
    assert (env.augment, env.crop_padding) == ("none", 0)
    batch = (env.reset(seed=0), env.episode.run.batch)[1]
    rows = {tuple(row) for row in DATA.train.images.tolist()}
    assert {tuple(row) for row in batch.images.tolist()} <= rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vit"}, "model must be a function where dataset is of texts, such as vit_patch"),
        ({"model": partial(MODEL, n_tokens=5)}, "model must have 9 patches, got 5"),
        ({"model": partial(MODEL, heads=3)}, "heads must divide dim, got 3 and dim 16"),
        ({"model": partial(MODEL, depth=0)}, r"depth must be in \[1, inf\), got 0"),
        ({"dataset": TEXTS}, "dataset must be a name, an ImageData or a TextData, got "),
    ],
)
def test_what_does_not_fit_texts_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        ViTPatchSelectEnv(**TINY | options).reset(seed=0)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_another_class_or_of_more_tokens_than_positions_is_refused(encoder):
    with pytest.raises(ValueError, match="must be a BertForSequenceClassification, got Linear"):
        TextEncoder(torch.nn.Linear(2, 2), 4)
    with pytest.raises(ValueError, match=r"n_tokens must be in \[1, 9\], got 10"):
        TextEncoder(encoder.plain_model, 10)


def test_without_transformers_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name)
    )
    for make in (partial(bert_encoder, 2, 10), text_env.make_text_env):
        with pytest.raises(ValueError, match=r"^expected transformers .*vit-patch-env\[hf\]"):
            make()


def test_a_picture_shows_dropped_tokens_struck_through():
    env = ViTPatchSelectEnv(**TINY, render_mode="rgb_array")
    env.reset(seed=0)
    pictures = []
    for n_keep in (N_TOKENS, 1):
        env.step(np.arange(N_TOKENS) < n_keep)
        pictures.append(env.render()[90:115].astype(int))  # the first text's first line
    blue = [(line[..., 2] - line[..., 0] > 20).mean(axis=0) > 0.5 for line in pictures]
    assert blue[0][:900].mean() > 0.9
    assert blue[1][16:130].mean() > 0.9
    assert not blue[1][140:].any()


def test_figures_of_texts_have_no_picture_of_mistakes():
    env = ViTPatchSelectEnv(**TINY)
    env.reset(seed=0)
    one = env.episode.predict_split("test")
    assert figure_files(DATA) == ("predictions.csv", "confusion.png")
    assert list(draw_pictures(Evaluations(one, one, 9.0), DATA, figure_files(DATA))) == [
        "confusion.png"
    ]
    n_texts = torch.bincount(DATA.test.labels, minlength=3).tolist()
    assert figures(one.predictions)["n_images"] == n_texts
    assert [LABELS[int(name)] for name in DATA.test_names] == DATA.test.labels.tolist()
