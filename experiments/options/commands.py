"""What can be set from the command line: typed dataclasses, one documented field per value."""

from dataclasses import dataclass, field

import tyro


@dataclass(frozen=True)
class EnvOptions:
    """Values of the environment: the keyword arguments of `ViTPatchSelect-v0`."""

    dataset: str = "digits"
    """digits, cifar10, cifar100, fashion_mnist, folder or synthetic"""
    data_dir: str | None = None
    """the image folder of `--dataset folder`; for the others where downloads are kept"""
    train_fraction: float = 1.0
    """share of the training images to use, in (0, 1]"""
    val_fraction: float = 0.1
    """share of those split off for validation, in (0, 1)"""
    skip_corrupt: bool = False
    """leave out images of a folder that cannot be read, and name them, instead of refusing all"""
    image_size: int = 32
    """height and width that images are resized to, in pixels"""
    patch_size: int = 4
    """height and width of a patch, in pixels; must divide image-size"""
    dim: int = 128
    """token size, divisible by 4"""
    depth: int = 6
    """transformer layers"""
    heads: int = 16
    """attention heads per layer"""
    dim_head: int = 64
    """size of a head"""
    mlp_dim: int = 512
    """hidden size of a layer's MLP"""
    model: str = "simple_vit"
    """simple_vit (the paper's), vit, or one that reduces its tokens by itself: ats_vit, evit, tome,
    patch_merger, patch_dropout, token_expansion"""
    keep_rate: float | None = None
    """share of tokens that such a model keeps, in (0, 1]; by default as published"""
    batch_size: int = 64
    """images per training step"""
    epochs: int = 20
    """passes over the training images, or what they cost"""
    budget: str = "epochs"
    """what ends a run: epochs; flops, those of so many epochs on all patches; or seconds"""
    seconds: float | None = None
    """how many of them, where they are the budget"""
    learning_rate: float = 1e-3
    """peak rate of the ViT's optimiser"""
    optimizer: str = "adam"
    """adam (the paper's) or adamw"""
    weight_decay: float = 0.0
    """of the ViT's optimiser"""
    schedule: str = "constant"
    """constant (the paper's) or cosine"""
    warmup_epochs: int = 0
    """epochs of linear warm-up"""
    label_smoothing: float = 0.0
    """of the training loss, in [0, 1)"""
    crop_padding: int = 4
    """pixels of padding for random crops; 0 for none"""
    flip: bool | None = None
    """mirror half of the images; by default where the data set allows it"""
    observation: str = "attention_output"
    """attention_output (the paper's), attention_received, or none for rules that do not look; with
    +run behind it, three numbers follow that tell how far the run is"""
    reward: str = "paper"
    """paper; validation (decrease of the loss on held-out training images); progress (of the loss,
    per FLOP); or aic (log-likelihood less the share of tokens)"""
    reward_every: int = 50
    """steps between measurements of the held-out loss"""
    reward_images: int = 512
    """held-out images that it is measured on"""
    n_patches_desired: int | None = 40
    """patches that the reward asks for and that a fixed rule keeps; None for as few as possible"""
    alpha: float = 0.2
    """weight of the loss against the number of patches in the reward, in [0, 1]"""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:<n>; agents run on the CPU"""
    precision: str = "auto"
    """auto (bf16 where the hardware has it), fp32 or bf16"""


@dataclass(frozen=True)
class DQNOptions:
    """Values of the agents `paper` and `branching`; the defaults are the paper's Table 1."""

    learning_rate: float = 0.01
    """η"""
    buffer_size: int = 1024
    """transitions in the replay buffer"""
    learning_starts: int = 64
    """steps of random actions before learning"""
    batch_size: int = 64
    """transitions per update"""
    tau: float = 0.1
    """soft update coefficient τ of the target network"""
    gamma: float = 0.95
    """discount factor γ"""
    train_freq: int = 10
    """steps between updates"""
    gradient_steps: int = 1
    """updates each time"""
    target_update_interval: int = 2
    """updates between soft updates of the target network"""
    exploration_initial_eps: float = 1.0
    """ε at the start"""
    exploration_final_eps: float = 0.01
    """ε in the limit"""
    exploration_decay_steps: float | None = None
    """time constant of ε in steps; by default the paper's 20,000, less for a shorter run"""
    max_grad_norm: float = 10.0
    """bound on the gradient's norm"""


@dataclass(frozen=True)
class TrainOptions:
    """Train a ViT while an agent picks the patches it trains on."""

    agent: str = "paper"
    """paper, branching, bandit; pretrained or the file of an agent that `vit-patch pretrain` made;
    a fixed rule (all, random, spread, centre, attended), random patches by a schedule (pss,
    pss_linear, flip, quadratic) or as many as in another run (matched); or an algorithm of
    Stable-Baselines3 (ppo, a2c, dqn, sac, ...)"""
    agent_learns: bool = False
    """let a pre-trained agent go on learning"""
    actions: str = "mask"
    """how an algorithm names patches: mask (MultiBinary), count (Discrete: how many, at random) or
    top_k (Box: a score for each and how many)"""
    follow: str | None = None
    """the run whose number of patches per step `--agent matched` repeats"""
    draw: str = "uniform"
    """how the patches of a schedule or of `--agent matched` are drawn: uniform or spread over the
    image"""
    seed: int = 0
    """of the ViT, its data and the agent"""
    out: str | None = None
    """the run folder; by default runs/<dataset>__<agent>__<seed>__<time>"""
    overwrite: bool = False
    """replace the run that the folder already holds"""
    resume: str | None = None
    """the folder of a run that was broken off, to go on with: its own options hold, and no others
    are needed"""
    checkpoint_every: str = "5min"
    """steps (500) or time (5min, 30s) between checkpoints; never for only where a run is stopped"""
    checkpoints_kept: int = 3
    """the newest checkpoints that are kept until the run is finished"""
    sb3: tuple[str, ...] = ()
    """values of a Stable-Baselines3 algorithm, such as n_steps=64 ent_coef=0.01"""
    log_interval: int = 10
    """steps between TensorBoard points"""
    env: tyro.conf.OmitArgPrefixes[EnvOptions] = field(default_factory=EnvOptions)
    dqn: DQNOptions = field(default_factory=DQNOptions)


PRETRAIN_ENV = EnvOptions(
    train_fraction=0.25,
    dim=32,
    depth=2,
    heads=2,
    dim_head=16,
    mlp_dim=64,
    batch_size=128,
    epochs=2,
    budget="flops",
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=0.05,
    schedule="cosine",
    observation="none+run",
    reward="validation",
    reward_every=1000,
    reward_images=2500,
)
"""A small ViT on a share of the images, for seconds."""


@dataclass(frozen=True)
class PretrainOptions:
    """Train an agent over many short training runs, and save it for `train --agent FILE`."""

    agent: str = "bandit"
    """bandit, paper, branching, or an algorithm of Stable-Baselines3"""
    episodes: int = 200
    """short training runs to learn from"""
    jobs: int = 1
    """environments at once, each in a process of its own with one thread"""
    budgets: tuple[int, ...] = ()
    """epochs of the environments, one for each of them, so that runs of several lengths are learned
    from; by default --jobs environments of --epochs each"""
    actions: str = "mask"
    """as for train"""
    seed: int = 0
    """of the agent and of the ViTs"""
    out: str = "agent.zip"
    """the agent's file"""
    overwrite: bool = False
    """replace the file that is there"""
    sb3: tuple[str, ...] = ()
    """values of a Stable-Baselines3 algorithm or of the bandit, such as decision_steps=50"""
    env: tyro.conf.OmitArgPrefixes[EnvOptions] = field(default_factory=lambda: PRETRAIN_ENV)
    dqn: DQNOptions = field(default_factory=DQNOptions)


@dataclass(frozen=True)
class EvaluateOptions:
    """Load a run and print its test figures again."""

    run: tyro.conf.Positional[str]
    """a folder that `vit-patch train` wrote"""
    data_dir: str | None = None
    """where the images are now, if not where they were"""
    device: str | None = None
    """another device than the run's"""


@dataclass(frozen=True)
class BenchOptions:
    """Measure training steps and epochs beside the rivals and the machine's own ceiling."""

    dataset: str = "digits"
    """as for train"""
    data_dir: str | None = None
    """as for train"""
    batch_size: int = 128
    """images per training step"""
    precision: str = "auto"
    """of our own contenders: auto (bf16 where the hardware has it), fp32 or bf16"""
    repeats: int = 5
    """how often everything is measured, in turn"""
    max_repeats: int = 10
    """how often at most, where repeats spread by more than 20 %"""
    steps: int = 5
    """training steps per measurement of a step"""
    epoch_steps: int = 10
    """steps per measurement of an epoch, a multiple of 10; an epoch of CIFAR-10 has 351"""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:<n>"""
    out: str = "bench"
    """the folder for bench.json and bench.png"""


@dataclass(frozen=True)
class CompareOptions:
    """Train every method with every seed on one data set, and keep what was measured."""

    preset: str = "smoke"
    """smoke, table2 or table2-cpu: where the other values start from"""
    methods: tuple[str, ...] = ()
    """which methods, in the order of the report; the README has the list"""
    seeds: tuple[int, ...] = ()
    """of the runs; a seed's runs share initial weights and data order"""
    out: str | None = None
    """the comparison's folder; by default results/<preset>"""
    jobs: int = 1
    """runs at once; on a CPU they share its cores"""
    checkpoint_every: str = "5min"
    """as for train"""
    env: tyro.conf.OmitArgPrefixes[EnvOptions] = field(default_factory=EnvOptions)


@dataclass(frozen=True)
class ReportOptions:
    """Write tables, plots and words from a comparison's files, without training."""

    folder: tyro.conf.Positional[str]
    """a folder that `vit-patch compare` wrote"""
    readme: str | None = None
    """a Markdown file whose lines between <!-- results --> and <!-- /results --> are replaced"""
