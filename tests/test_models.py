"""Every model's contract, and each method against its definition written out in plain loops."""

import copy
import math
import sys
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vit_patch_env.models import check_model, make_model, model_class
from vit_patch_env.models.ats_vit import pack, sample_tokens
from vit_patch_env.models.evit import fuse
from vit_patch_env.models.layers.tokens import cosine_similarity
from vit_patch_env.models.token_expansion import expand, merge_rest
from vit_patch_env.models.tome import bipartite_matching, merge
from vit_patch_env.names import ModelName

pytestmark = pytest.mark.counts_flops

TINY = {
    "n_classes": 4, "image_size": 16, "dim": 16, "depth": 4, "heads": 2, "dim_head": 8,
    "mlp_dim": 32,
}  # fmt: skip
MODELS = {name: model_class(name) for name in get_args(ModelName)}
WITH_KEEP_RATE = [name for name, model in MODELS.items() if model.published_keep_rate is not None]

every_model = pytest.mark.parametrize("name", list(MODELS))


def make(name, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_model(name, **TINY | options)


def random_images(batch=3, channels=3, size=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, size, size, generator=generator)


def train_options(model, progress=0.0):
    return {"rate": model.train_rate(progress)} if hasattr(model, "train_rate") else {}


def tokens_in_last_mlp(model, images, keep=None, **options):
    shapes = []
    hook = model.blocks[-1].mlp.register_forward_hook(
        lambda module, inputs, output: shapes.append(inputs[0].shape[1])
    )
    model(images, keep, **options)
    hook.remove()
    return shapes[0]


# Every model


@every_model
@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_contract(name, depth, channels, training):
    model = make(name, depth=depth, channels=channels).train(training)
    images = random_images(channels=channels)
    assert model.n_patches == 16
    for keep in (None, torch.tensor([5]), torch.tensor([0, 7]), torch.arange(1, 16)):
        logits = model(images, keep, **train_options(model))
        assert logits.shape == (3, 4)
        assert logits.isfinite().all()
    assert model.first_attention(images).shape == (3, 16, 16)
    assert model.first_attention_weights(images).shape == (3, 2, 16, 16)


@every_model
def test_observations_exclude_prefix_tokens(name):
    model, images = make(name), random_images()
    mean = model.first_attention(images).mean(dim=(0, 2))
    assert torch.allclose(model.mean_first_attention(images), mean, atol=1e-6)
    weights = model.first_attention_weights(images)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(3, 2, 16), atol=1e-5)


@every_model
def test_dropped_pixels_change_nothing_and_kept_ones_do(name):
    model, images = make(name).eval(), random_images()
    changed = images.clone()
    changed[:, :, :4] = 9 * random_images(seed=2)[:, :, :4]  # the four patches of the top row
    keep = torch.arange(4, 16)
    assert torch.equal(model(images, keep), model(changed, keep))
    assert not torch.allclose(model(images), model(changed))


@every_model
def test_each_image_may_keep_its_own_patches(name):
    model, images = make(name).eval(), random_images()
    keep = torch.tensor([[0, 5, 7], [1, 2, 15], [4, 8, 9]])
    logits = model(images, keep)
    for own, image, expected in zip(keep, images, logits, strict=True):
        torch.testing.assert_close(model(image[None], own)[0], expected, atol=1e-5, rtol=0)


@every_model
def test_images_do_not_affect_each_other(name):
    model, images = make(name).eval(), random_images(5)
    together = model(images)
    for index in range(5):
        alone = model(images[index : index + 1])[0]
        assert torch.allclose(together[index], alone, atol=1e-5)


@every_model
def test_gradients_reach_every_parameter(name):
    model = make(name).train()
    F.cross_entropy(
        model(random_images(), **train_options(model)), torch.tensor([0, 1, 2])
    ).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_model
def test_models_fit_their_training_images(name):
    model, images, labels = make(name), random_images(8), torch.arange(8) % 4
    first = F.cross_entropy(model.eval()(images), labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for step in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(images, **train_options(model, step / 10)), labels).backward()
        optimizer.step()
    assert F.cross_entropy(model.eval()(images), labels) < 0.7 * first


@every_model
def test_a_seed_determines_everything(name):
    images, outputs = random_images(), []
    for _ in range(2):
        model = make(name, seed=3).train()
        outputs.append(model(images, **train_options(model)))
        torch.rand(1)
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], make(name, seed=4)(images))


@every_model
def test_bf16_autocast(name):
    model = make(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(random_images(), **train_options(model))
    logits.float().sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_model
def test_the_fast_attention_changes_nothing(name):
    model, images = make(name, dim_head=32), random_images()
    plain = copy.deepcopy(model).double()(images.double(), **train_options(model))
    assert plain.dtype == torch.float64
    assert torch.allclose(model(images, **train_options(model)).double(), plain, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "n_tokens", "n_evaluated"),
    [
        ("simple_vit", 16, 16),
        ("vit", 17, 17),
        ("evit", 10, 10),  # 16, 12 + 1, 10 + 1, 8 + 1, and the class token
        ("tome", 4, 4),  # 3 fewer in each of 4 blocks
        ("patch_merger", 2, 2),
        ("patch_dropout", 8, 16),
        ("token_expansion", 8, 16),
    ],
)
def test_fewer_tokens_reach_the_last_block(name, n_tokens, n_evaluated):
    model, images = make(name), random_images()
    assert tokens_in_last_mlp(model, images, **train_options(model)) == n_tokens
    assert tokens_in_last_mlp(model.eval(), images) == n_evaluated


@pytest.mark.parametrize(
    ("name", "n_tokens"),
    [
        ("vit", 9),
        ("evit", 7),  # 8, 6 + 1, 5 + 1, 5 + 1, and the class token
        ("tome", 1),
        ("patch_merger", 2),
        ("patch_dropout", 4),
        ("token_expansion", 4),
    ],
)
def test_a_models_reduction_adds_to_the_selection(name, n_tokens):
    model = make(name)
    keep = torch.arange(0, 16, 2)
    n_last = tokens_in_last_mlp(model, random_images(), keep, **train_options(model))
    assert n_last == n_tokens


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", [name for name in MODELS if not MODELS[name].data_dependent])
def test_flops_are_counted_on_shapes_alone(name):
    model = copy.deepcopy(make(name, depth=2)).to("meta").train()
    images = random_images().to("meta")
    model(images, torch.arange(5, device="meta"), **train_options(model)).sum().backward()
    with FlopCounterMode(display=False) as counter:
        model(images, **train_options(model)).sum().backward()
    with FlopCounterMode(display=False) as full:
        make("simple_vit", depth=2).to("meta")(images).sum().backward()
    model.mean_first_attention(images)
    if name in WITH_KEEP_RATE:
        assert 0 < counter.get_total_flops() < full.get_total_flops()
    else:
        assert counter.get_total_flops() >= full.get_total_flops()


def test_only_adaptive_token_sampling_depends_on_the_images():
    assert [name for name, model in MODELS.items() if model.data_dependent] == ["ats_vit"]


# By name


@pytest.mark.parametrize("name", WITH_KEEP_RATE)
def test_a_model_has_its_published_keep_rate_by_default(name):
    assert make(name).keep_rate == MODELS[name].published_keep_rate
    assert make(name, keep_rate=0.6).keep_rate == 0.6
    check_model(name, 1)


@pytest.mark.parametrize("name", ["simple_vit", "vit"])
def test_keep_rate_of_a_model_without_one(name):
    check_model(name)
    with pytest.raises(
        ValueError, match=f"keep_rate belongs to ats_vit, evit, .*, got model {name}"
    ):
        make(name, keep_rate=0.5)


@pytest.mark.parametrize("name", WITH_KEEP_RATE)
@pytest.mark.parametrize("keep_rate", [0, 1.1, math.nan])
def test_keep_rate_outside_its_interval(name, keep_rate):
    with pytest.raises(ValueError, match=r"keep_rate must be in \(0, 1\], got"):
        make(name, keep_rate=keep_rate)


def test_an_unknown_model():
    with pytest.raises(ValueError, match=r"model must be one of simple_vit, vit, .*, got 'vitt'"):
        check_model("vitt")


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("patch_merger", "vit_pytorch", "vit-pytorch"), ("patch_dropout", "timm", "timm")],
)
def test_a_missing_package_is_named(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"model {name} needs {package}: pip install {package}"):
        make(name)


# The original ViT


def test_vit_equals_vit_pytorchs():
    vit_pytorch = pytest.importorskip("vit_pytorch")
    theirs = vit_pytorch.ViT(
        num_classes=4, image_size=16, patch_size=4, dim=16, depth=4, heads=2, dim_head=8,
        mlp_dim=32,
    )  # fmt: skip
    for attention, _ in theirs.transformer.layers:
        attention.to_out[0].bias.data.zero_()  # ours has none
    ours = make("vit")
    for own, other in zip(ours.embedding, theirs.to_patch_embedding[1:], strict=True):
        own.load_state_dict(other.state_dict())
    ours.class_position.data = theirs.pos_embedding.data[0]
    ours.positions.data = theirs.pos_embedding.data[1:]
    ours.class_token.data = theirs.cls_token.data[0]
    for block, (attention, mlp) in zip(ours.blocks, theirs.transformer.layers, strict=True):
        block.attention.norm.load_state_dict(attention.norm.state_dict())
        block.attention.to_qkv.load_state_dict(attention.to_qkv.state_dict())
        block.attention.to_out.weight.data = attention.to_out[0].weight.data
        for own, other in ((0, 0), (1, 1), (3, 4)):
            block.mlp[own].load_state_dict(mlp.net[other].state_dict())
    ours.norm.load_state_dict(theirs.transformer.norm.state_dict())
    ours.head.load_state_dict(theirs.mlp_head.state_dict())
    images = random_images()
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def test_the_class_token_starts_at_zero_and_positions_small():
    model = make("vit", dim=64)
    assert not model.class_token.any()
    assert model.positions.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.class_position.std().item() == pytest.approx(0.02, rel=0.3)


# Plain attention of one image, head by head


def plain_attention(attention, tokens, bias=None):
    """What attention adds (n, dim), and per head its weights, keys and values."""
    qkv = attention.to_qkv(attention.norm(tokens))
    query, key, value = (part.split(attention.dim_head, dim=1) for part in qkv.chunk(3, dim=1))
    weights = []
    for head in range(attention.heads):
        scores = query[head] @ key[head].T / attention.dim_head**0.5
        weights.append((scores if bias is None else scores + bias).softmax(dim=1))
    out = torch.cat([w @ v for w, v in zip(weights, value, strict=True)], dim=1)
    return attention.to_out(out), weights, key, value


def assert_equals_plain(name, plain, keep_rate, n_keep, seed, **options):
    """The model's logits of several images against `plain(model, tokens)` of one at a time."""
    model = make(name, seed, keep_rate=keep_rate).double()
    images = random_images(seed=seed).double()
    keep = torch.randperm(16, generator=torch.Generator().manual_seed(seed))[:n_keep].sort()[0]
    logits = model(images, keep, **options)
    for row, tokens in zip(logits, model.embed(images, keep), strict=True):
        assert torch.allclose(row, plain(model, tokens, **options), atol=1e-9)


selections = given(
    keep_rate=st.sampled_from([0.1, 0.3, 0.55, 0.7, 1.0]),
    n_keep=st.integers(1, 16),
    seed=st.integers(0, 2**31),
)
few = settings(deadline=None, max_examples=10)


# Adaptive token sampling


def test_sample_tokens_of_a_small_case():
    scores = torch.tensor([[1.0, 1.0, 1.0, 1.0], [8.0, 0.0, 1.0, 1.0], [0.0, 2.0, 2.0, 9.0]])
    mask = torch.tensor([[True] * 4, [True] * 4, [True, True, True, False]])
    # Fixed points 1/4 and 3/4. Steps end at 1/4, 1/2, 3/4, 1; 0.8, 0.8, 0.9, 1; 0, 1/2, 1.
    sampled = sample_tokens(scores, 2, mask)
    assert sampled.tolist() == [
        [True, False, True, False],
        [True, False, False, False],
        [False, True, True, False],
    ]
    # Fixed points 0.1, 0.3, ... 0.9
    assert sample_tokens(scores, 5, mask)[1].tolist() == [True, False, True, False]


@few
@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=12),
    st.integers(0, 5), st.integers(1, 20),
)  # fmt: skip
def test_sample_tokens_inverts_the_distribution_point_by_point(scores, n_padding, n_samples):
    row = torch.tensor([scores + [0.5] * n_padding], dtype=torch.float64)
    mask = torch.arange(row.shape[1])[None] < len(scores)
    sampled = sample_tokens(row, n_samples, mask)[0]
    drawn, share, total = set(), 0.0, row[0, : len(scores)].sum().item()
    points = [(2 * k - 1) / (2 * n_samples) for k in range(1, n_samples + 1)]
    for index, score in enumerate(row[0, : len(scores)].tolist()):
        below, share = share, share + score / total
        if any(abs(point - share) < 1e-9 for point in points):
            return  # rounding decides
        if any(below < point <= share for point in points):
            drawn.add(index)
    assert set(sampled.nonzero()[:, 0].tolist()) == drawn


def test_sample_tokens_without_any_score_samples_none():
    mask = torch.ones(1, 3, dtype=torch.bool)
    for value in (0.0, math.nan):
        assert not sample_tokens(torch.full((1, 3), value), 2, mask).any()


def test_pack_is_as_wide_as_the_fullest_row():
    chosen = torch.tensor([[True, False, True, False], [False, False, True, False]])
    index, mask = pack(chosen)
    assert index[0].tolist() == [0, 2]
    assert index[1, 0] == 2
    assert mask.tolist() == [[True, True], [True, False]]


def plain_ats(model, tokens):
    n_samples = max(1, round(model.keep_rate * (len(tokens) - 1)))
    for index, block in enumerate(model.blocks):
        out, weights, _, value = plain_attention(block.attention, tokens)
        if index >= len(model.blocks) // 4:
            significance = sum(
                w[0, 1:] * v[1:].norm(dim=1) for w, v in zip(weights, value, strict=True)
            )
            steps = (significance / significance.sum()).cumsum(0).tolist()
            kept = {0}
            for k in range(1, n_samples + 1):
                point = (2 * k - 1) / (2 * n_samples)
                kept.add(1 + next(j for j, step in enumerate(steps) if step >= point))
            tokens, out = tokens[sorted(kept)], out[sorted(kept)]
        tokens = tokens + out
        tokens = tokens + block.mlp(tokens)
    return model.head(model.norm(tokens[0]))


@few
@selections
def test_ats_vit_equals_a_plain_one(keep_rate, n_keep, seed):
    assert_equals_plain("ats_vit", plain_ats, keep_rate, n_keep, seed)


def test_ats_vit_keeps_as_many_tokens_as_the_image_needs():
    model = make("ats_vit")
    images = random_images(6)
    alone = [tokens_in_last_mlp(model, image[None]) for image in images]
    assert len(set(alone)) > 1
    assert max(alone) <= 1 + round(0.55 * 16)
    assert tokens_in_last_mlp(model, images) == max(alone)


def test_ats_vit_survives_nan():
    assert make("ats_vit")(torch.full((2, 3, 16, 16), math.nan)).isnan().all()


# EViT


def test_fuse_of_a_small_case():
    tokens = torch.tensor([[[9.0], [1.0], [2.0], [3.0]]])
    weights = torch.tensor([[0.2, 0.5, 0.1]])
    assert torch.allclose(fuse(tokens, weights, 1), torch.tensor([[[9.0], [2.0], [0.5]]]))
    assert torch.equal(fuse(tokens, weights, 3), tokens)


def plain_evit(model, tokens):
    depth = len(model.blocks)
    for index, block in enumerate(model.blocks):
        out, weights, _, _ = plain_attention(block.attention, tokens)
        tokens = tokens + out
        n_keep = math.ceil(round(model.keep_rate * (len(tokens) - 1), 6))
        if index in (depth // 4, depth // 2, 3 * depth // 4) and n_keep < len(tokens) - 1:
            shares = (sum(w[0, 1:] for w in weights) / len(weights)).tolist()
            order = sorted(range(len(shares)), key=lambda j: -shares[j])
            kept = [tokens[0]] + [tokens[1 + j] for j in order[:n_keep]]
            fused = sum(shares[j] * tokens[1 + j] for j in order[n_keep:])
            tokens = torch.stack([*kept, fused])
        tokens = tokens + block.mlp(tokens)
    return model.head(model.norm(tokens[0]))


@few
@selections
def test_evit_equals_a_plain_one(keep_rate, n_keep, seed):
    assert_equals_plain("evit", plain_evit, keep_rate, n_keep, seed)


def test_evit_keeps_no_extra_token_because_of_rounding():
    model = make("evit", image_size=40, depth=1, keep_rate=0.55)  # 0.55 * 100 > 55
    assert tokens_in_last_mlp(model, random_images(1, size=40)) == 1 + 55 + 1


# ToMe


def test_bipartite_matching_of_a_small_case():
    east, north = [1.0, 0.0], [0.0, 1.0]
    metric = torch.tensor([[north, east, [3.0, 0.1], [0.9, 1.0], [2.0, 0.0]]])
    # Tokens 4 and 2 are most like token 1, token 0 is most like token 3, but less so.
    assert bipartite_matching(metric, 1).tolist() == [[1, 2, 0, 3, 2]]
    assert bipartite_matching(metric, 2).tolist() == [[0, 1, 1, 2, 1]]


def test_merge_weights_by_size():
    tokens = torch.tensor([[[1.0], [2.0], [6.0], [10.0]]], requires_grad=True)
    sizes = torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    merged, merged_sizes = merge(tokens, sizes, torch.tensor([[1, 1, 0, 1]]), 2)
    assert torch.allclose(merged, torch.tensor([[[6.0], [15 / 4]]]))
    assert merged_sizes.tolist() == [[1.0, 4.0]]
    merged[0, 1].backward()
    assert torch.allclose(tokens.grad[0, :, 0], torch.tensor([0.25, 0.5, 0.0, 0.25]))


def plain_tome(model, tokens):
    n_pairs = round((1 - model.keep_rate) * len(tokens) / len(model.blocks))
    sizes = torch.ones(len(tokens)).double()
    for block in model.blocks:
        out, _, keys, _ = plain_attention(block.attention, tokens, sizes.log())
        tokens = tokens + out
        mean_key = sum(keys) / len(keys)
        best = []
        for a in range(0, len(tokens), 2):
            likeness = F.cosine_similarity(mean_key[a : a + 1], mean_key).tolist()
            pairs = [(likeness[b], a, b) for b in range(1, len(tokens), 2)]
            best += [max(pairs)] if pairs else [(0.0, a, None)]
        best.sort(reverse=True)
        n_merge = min(n_pairs, len(tokens) // 2)
        # First those that stay, then those of the other half, as the next block splits them anew.
        places = [a for _, a, _ in best[n_merge:]] + list(range(1, len(tokens), 2))
        groups = {index: [index] for index in places}
        for _, a, b in best[:n_merge]:
            groups[b].append(a)
        merged = [
            sum(sizes[i] * tokens[i] for i in group) / sizes[group].sum()
            for group in groups.values()
        ]
        sizes = torch.stack([sizes[group].sum() for group in groups.values()])
        tokens = torch.stack(merged)
        tokens = tokens + block.mlp(tokens)
    return model.head((sizes[:, None] * model.norm(tokens)).sum(0) / sizes.sum())


@few
@selections
def test_tome_equals_a_plain_one(keep_rate, n_keep, seed):
    assert_equals_plain("tome", plain_tome, keep_rate, n_keep, seed)


def test_tome_that_merges_nothing_is_simple_vit():
    tome, simple_vit = make("tome", keep_rate=1.0), make("simple_vit")
    images = random_images()
    assert torch.allclose(tome(images), simple_vit(images), atol=1e-6)


def test_tome_never_merges_more_than_half():
    assert tokens_in_last_mlp(make("tome", depth=1, keep_rate=0.1), random_images()) == 8


# PatchMerger


def test_patch_merger_is_in_the_middle():
    model, images = make("patch_merger", keep_rate=0.3), random_images()
    tokens = model.merger(model.blocks[1](model.blocks[0](model.embed(images))))
    assert tokens.shape[1] == 5
    tokens = model.blocks[3](model.blocks[2](tokens))
    assert torch.equal(model(images), model.head(model.norm(tokens).mean(dim=1)))


# PatchDropout


@pytest.mark.parametrize(
    ("keep_rate", "size", "n_keep", "n_tokens"),
    [
        (0.625, 32, 64, 40), (0.3, 16, 10, 3), (0.5, 16, 9, 4), (1.0, 16, 16, 16),
        (0.01, 16, 16, 1), (0.7, 16, 10, 7),
    ],
)  # fmt: skip
def test_patch_dropout_keeps_its_share(keep_rate, size, n_keep, n_tokens):
    model = make("patch_dropout", keep_rate=keep_rate, image_size=size)
    images = random_images(size=size)
    assert tokens_in_last_mlp(model, images, torch.arange(n_keep)) == n_tokens


def test_patch_dropout_samples_for_each_image_and_step():
    model = make("patch_dropout")
    images = random_images(1).expand(2, -1, -1, -1)
    logits, later = model(images), model(images)
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits, later)
    assert torch.equal(model.eval()(images)[0], model(images)[1])


def test_patch_dropout_does_not_share_the_global_generator():
    images = random_images()
    model, disturbed = make("patch_dropout"), make("patch_dropout")
    before = torch.get_rng_state()
    expected = [model(images) for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    for logits in expected:
        torch.rand(5)
        assert torch.equal(disturbed(images), logits)


# Token expansion


def test_token_expansion_grows_by_thirds():
    model = make("token_expansion")
    assert [model.train_rate(p) for p in (0, 0.33, 1 / 3, 0.66, 2 / 3, 0.99, 1.0)] == [
        0.5, 0.5, 0.75, 0.75, 1.0, 1.0, 1.0,
    ]  # fmt: skip
    assert make("token_expansion", keep_rate=0.2).train_rate(0.5) == pytest.approx(0.6)


def test_expand_adds_the_least_similar_tokens():
    similarity = torch.tensor([[1, 0.9, 0.2, 0.5], [0.9, 1, 0, 0], [0.2, 0, 1, 0], [0.5, 0, 0, 1]])
    chosen = torch.tensor([[True, False, False, False]])
    assert expand(chosen, similarity[None], 1).tolist() == [[True, False, True, False]]
    assert expand(chosen, similarity[None], 2).tolist() == [[True, False, True, True]]
    assert expand(chosen, similarity[None], 0).tolist() == chosen.tolist()


def test_merge_rest_averages_the_rest_into_the_most_similar():
    tokens = torch.tensor([[[1.0, 0.0], [0.1, 3.0], [5.0, 0.2], [0.0, 1.0], [3.0, 0.0]]])
    tokens.requires_grad_()
    chosen = torch.tensor([[True, False, False, True, False]])
    merged = merge_rest(tokens, cosine_similarity(tokens, tokens), chosen, 2)
    assert torch.allclose(merged, torch.tensor([[[3.0, 0.2 / 3], [0.05, 2.0]]]))
    merged[0, 0].sum().backward()
    third = pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3])
    assert tokens.grad[0, :, 0].tolist() == third


def plain_token_expansion(model, tokens, rate):
    n = len(tokens)
    tokens = model.blocks[0](tokens[None])[0]
    if rate < 1:
        likeness = [F.cosine_similarity(token[None], tokens).tolist() for token in tokens]
        n_first = max(1, int(model.keep_rate / 2 * n))
        chosen = [i * n // n_first for i in range(n_first)]
        stages = [r for r in (model.keep_rate, (1 + model.keep_rate) / 2) if r < rate]
        for stage in [*stages, rate]:
            n_new = max(0, int(stage * n + 1e-6) - len(chosen))
            for n_added in (n_new // 2, n_new - n_new // 2):
                others = [i for i in range(n) if i not in chosen]
                others.sort(key=lambda i: max(likeness[i][j] for j in chosen))
                chosen = [*chosen, *others[:n_added]]
        groups = {j: [j] for j in chosen}
        for i in set(range(n)) - set(chosen):
            groups[max(chosen, key=lambda j: likeness[i][j])].append(i)
        tokens = torch.stack([tokens[group].mean(dim=0) for group in groups.values()])
    for block in model.blocks[1:]:
        tokens = block(tokens[None])[0]
    return model.head(model.norm(tokens).mean(dim=0))


@few
@selections
@pytest.mark.parametrize("progress", [0.1, 0.5, 0.9])
def test_token_expansion_equals_a_plain_one(progress, keep_rate, n_keep, seed):
    rate = make("token_expansion", keep_rate=keep_rate).train_rate(progress)
    assert_equals_plain(
        "token_expansion", plain_token_expansion, keep_rate, n_keep, seed, rate=rate
    )


def test_token_expansion_evaluates_on_all_tokens():
    model, images = make("token_expansion"), random_images()
    simple_vit = make("simple_vit")
    assert torch.equal(model(images), simple_vit(images))
    assert torch.equal(model(images, rate=1.0), simple_vit(images))
    assert not torch.allclose(model(images, rate=0.5), simple_vit(images))
    assert torch.equal(model.eval()(images, rate=0.5), simple_vit(images))
