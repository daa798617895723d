"""Models by name and as objects in the environment, and what is refused, in one line."""

import copy
import sys

import pytest
import torch
from torch import nn

from tests.library_vits import make_plain
from vit_patch_env import SimpleViT, ViTPatchSelectEnv, select_patches
from vit_patch_env.config import EnvConfig
from vit_patch_env.models.contract import plain_model
from vit_patch_env.models.families import make_library_vit

pytestmark = pytest.mark.counts_flops

BASE = {
    "dataset": "synthetic", "batch_size": 64, "epochs": 1, "device": "cpu", "precision": "fp32",
}  # fmt: skip
SMALL = {"image_size": 32, "patch_size": 8}
TIMM = "timm:test_vit"  # of 160 pixels, with patches of 16


def env_of(model, **options):
    return ViTPatchSelectEnv(**{**BASE, **SMALL, "model": model, **options})


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face ViT that save_pretrained wrote: images of 32 pixels, 16 patches."""
    make_plain("hf:ViT").save_pretrained(tmp_path / "vit")
    return f"hf:{tmp_path / 'vit'}"


def test_sizes_are_those_of_the_model_unless_they_are_given(folder):
    pytest.importorskip("timm")
    own = EnvConfig(model=TIMM)
    assert (own.image_size, own.patch_size, own.n_patches) == (160, 16, 100)
    assert own.dim is None
    given = EnvConfig(model=TIMM, image_size=64, patch_size=8)
    assert (given.image_size, given.patch_size, given.n_patches) == (64, 8, 64)
    assert EnvConfig(model=folder).n_patches == 16
    assert EnvConfig(model="torchvision:vit_b_16").n_patches == 196
    assert EnvConfig(model="vit_pytorch:ViT").dim == 128
    assert EnvConfig(model=make_plain("eva:rope")).patch_size == 8
    assert EnvConfig(model=lambda *_: None).image_size == 32


@pytest.mark.parametrize(
    "name",
    [
        TIMM, "folder", "vit_pytorch:SimpleViT",
        pytest.param("torchvision:vit_b_32", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_weights_depend_on_the_seed_alone(name, request):
    pytest.importorskip("timm")
    name = request.getfixturevalue("folder") if name == "folder" else name
    env = env_of(name, patch_size=32 if "b_32" in name else 8)
    if name.startswith("vit_pytorch"):
        env = env_of(name, dim=16, depth=1, heads=2, dim_head=8, mlp_dim=16)
    before = torch.get_rng_state()
    env.reset(seed=3)
    first = copy.deepcopy(plain_model(env.episode.model).state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    env.reset(seed=3)
    assert all(
        torch.equal(v, first[k]) for k, v in env.episode.model.plain_model.state_dict().items()
    )
    env.reset(seed=4)
    changed = env.episode.model.plain_model.state_dict()
    assert any(not torch.equal(changed[name], first[name]) for name in first)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", ["timm:registers", "eva:dinov3", "hf:Dinov2", "vit_pytorch:ViT"])
@pytest.mark.parametrize("observation", ["attention_output", "attention_received"])
def test_a_library_s_module_trains_from_its_weights(kind, observation):
    plain = make_plain(kind)
    plain = with_classes(plain, 4)
    before = copy.deepcopy(plain.state_dict())
    env = env_of(plain, observation=observation, budget="flops")
    env.reset(seed=0)
    started = env.episode.model.plain_model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in started.items())
    observed, _, _, _, info = env.step([1, 0] * 8)
    assert observed.shape == (16,)
    assert info["n_selected"] == 8
    # Half of the patches and the observation of all; prefix tokens are always kept.
    assert 0.4 < info["progress"] * (len(env.data.train.images) // 64) < 0.9
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def with_classes(plain, n_classes):
    """The model with a head of so many classes."""
    for name in ("head", "classifier", "mlp_head"):
        head = getattr(plain, name, None)
        if isinstance(head, nn.Linear):
            setattr(plain, name, nn.Linear(head.in_features, n_classes))
    return plain


def test_a_budget_of_flops_is_that_of_the_model_on_all_patches():
    pytest.importorskip("vit_pytorch")
    sizes = {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 32}
    env = env_of("vit_pytorch:ViT", observation="none", budget="flops", **sizes)
    env.reset(seed=0)
    _, _, _, _, info = env.step([1] * 16)
    n_steps = len(env.data.train.images) // 64
    assert info["progress"] == pytest.approx(1 / n_steps)


def test_a_function_in_a_module_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_vits.py").write_text(
        "from vit_patch_env import SimpleViT\n"
        "def make_model(n_classes, channels):\n"
        "    return SimpleViT(n_classes=n_classes, channels=channels, patch_size=8, dim=16,\n"
        "                     depth=1, heads=1, dim_head=8, mlp_dim=8)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    env = env_of("my_vits:make_model")
    env.reset(seed=0)
    assert isinstance(env.episode.model, SimpleViT)
    for name, message in {
        "my_vits:make": "must be module:function, got 'my_vits:make': my_vits has no make",
        "my_vits:number": "must be module:function, got 'my_vits:number', which is 3",
        "no_vits:make": "must be module:function, got 'no_vits:make': No module named 'no_vits'",
    }.items():
        with pytest.raises(ValueError, match=message):
            env_of(name)


REFUSED = {
    "simpl_vit": "did you mean simple_vit",
    "timm:": "must be one of simple_vit",
    "timm:vit_smal_patch16_224": "did you mean timm:vit_small_patch16_224",
    "timm:swin_tiny_patch4_window7_224": "cannot drop patches: SwinTransformer is no plain ViT",
    "timm:maxvit_tiny_tf_224": "cannot drop patches: MaxxVit is no plain ViT",
    "timm:pvt_v2_b0": "cannot drop patches: PyramidVisionTransformerV2 is no plain ViT",
    "timm:cait_xxs24_224": "cannot drop patches: its class token comes after",
    "timm:beit_base_patch16_224": "cannot drop patches: its relative position bias",
    "timm:vit_tiny_r_s16_p8_224": "cannot drop patches: its patches are embedded by a network",
    "torchvision:vit_b_17": "did you mean torchvision:vit_",
    "torchvision:swin_t": "cannot drop patches: it is no plain ViT",
    "vit_pytorch:SimpleVit": "did you mean vit_pytorch:SimpleViT",
    "vit_pytorch:MAE": "of vit-pytorch's models only SimpleViT and ViT can",
    "hf:/nowhere": "a folder that save_pretrained wrote, .* got 'hf:/nowhere' without config.json",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_one_line_before_images_are_read(name):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=REFUSED[name]) as refused:
        ViTPatchSelectEnv(**BASE, model=name)
    assert "model" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": TIMM, "dim": 64},
            "dim must be None, as model timm:test_vit has its own, got 64",
        ),
        ({"model": "torchvision:vit_b_16", "patch_size": 8}, "patch_size must be 16"),
        ({"model": "torchvision:vit_b_16", "image_size": 40}, "image_size must be divisible by"),
        ({"model": TIMM, "image_size": 50}, "image_size must be divisible by patch_size"),
        ({"model": TIMM, "keep_rate": 0.5}, "keep_rate belongs to"),
    ],
)
def test_sizes_that_a_model_does_not_take_are_refused(options, message):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        ViTPatchSelectEnv(**{**BASE, **options})


@pytest.mark.parametrize("package", ["timm", "transformers", "vit_pytorch"])
def test_a_missing_package_is_named_with_its_extra(package, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name)
    )
    family, extra = {
        "transformers": ("hf", "hf"),
        "vit_pytorch": ("vit_pytorch", "vit-pytorch"),
    }.get(package, (package, package))
    with pytest.raises(ValueError, match=rf"pip install 'vit-patch-env\[{extra}\]'"):
        make_library_vit(f"{family}:any", n_classes=2, channels=3)


def test_a_model_too_large_for_memory_is_refused_before_images_are_read(monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr("vit_patch_env.system.memory.memory_limit", lambda: 10**6)
    with pytest.raises(ValueError, match="the weights of timm:test_vit to fit into"):
        ViTPatchSelectEnv(**BASE, model=TIMM)


# The contract


class Whole(nn.Module):
    """A model that meets the contract, to which each case adds a mistake."""

    n_patches = 16

    def __init__(self, n_classes=4, channels=3):
        super().__init__()
        self.embedding = nn.Conv2d(channels, 8, 8, 8)
        self.head = nn.Linear(8, n_classes)

    def embed(self, images):
        return self.embedding(images).flatten(2).transpose(1, 2)

    def forward(self, images, keep=None):
        tokens = self.embed(images)
        return self.head((tokens if keep is None else tokens[:, keep]).mean(dim=1))

    def first_attention(self, images):
        return self.embed(images)


def broken(**changes):
    return type("Broken", (Whole,), changes)


def fails(self, images, keep=None):
    raise KeyError("lost\nand found")


MISTAKES = {
    "no n_patches": ({"n_patches": None}, "must have n_patches, .* got a model without it"),
    "a text": ({"n_patches": "16"}, "n_patches, the number of patches of an image, got '16'"),
    "no keep": (
        {"forward": lambda self, images: None},
        r"forward\(images, keep=None\), got forward\(images\)",
    ),
    "other patches": ({"n_patches": 4}, "model must have 16 patches, got 4"),
    "raises": (
        {"forward": fails}, r"compute model\(images\) for images \(2, 3, 32, 32\), got KeyErr"
    ),
    "a tuple": (
        {"forward": lambda self, images, keep=None: (images,)},
        r"model\(images\), logits as a tensor \(2, 4\), got \(",
    ),
    "of all patches": (
        {"forward": lambda self, images, keep=None: self.head(self.embed(images))},
        r"model\(images\), logits of shape \(2, 4\), got \(2, 16, 4\)",
    ),
    "no attention": ({"first_attention": property()}, "observation attention_output"),
    "wrong attention": (
        {"first_attention": lambda self, images: self.embed(images)[:, :7]},
        r"observation attention_output of shape \(16,\), got \(7,\)",
    ),
    "none": (
        {"first_attention": lambda self, images: None},
        "compute observation attention_output for images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("as_module", [False, True])
def test_the_missing_part_of_a_contract_is_named(mistake, as_module):
    changes, message = MISTAKES[mistake]
    model = broken(**changes)
    env = env_of(model() if as_module else model)
    with pytest.raises(ValueError, match=message) as refused:
        env.reset(seed=0)
    assert "\n" not in str(refused.value)


def test_a_method_that_an_observation_needs_is_named():
    message = "attention_received needs a model with .* \\(first_attention_weights\\), got Whole"
    with pytest.raises(ValueError, match=message):
        env_of(Whole, observation="attention_received").reset(seed=0)
    env = env_of(broken(first_attention=None), observation="none")
    env.reset(seed=0)
    env.step([1] * 16)


def test_a_model_that_meets_the_contract_is_returned_as_it_is():
    model = Whole()
    assert select_patches(model) is model
    with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module, got 3"):
        select_patches(3)
    with pytest.raises(ValueError, match="Linear must have n_patches"):
        select_patches(nn.Linear(2, 2))


def test_a_subclass_of_a_library_s_model_with_another_forward_pass_is_not_adapted():
    plain = make_plain("timm:class-token")

    class Other(type(plain)):
        def forward_features(self, x):
            return super().forward_features(x.flip(-1))

    plain.__class__ = Other
    with pytest.raises(ValueError, match="Other must have n_patches"):
        select_patches(plain)
