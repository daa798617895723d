"""The options of each command, declared once."""

from dataclasses import field, replace
from typing import Annotated, Any, Literal

from annotated_types import Interval
from typing_extensions import Doc

from vit_patch_env.agents.bandit.options import BanditOptions
from vit_patch_env.agents.fixed_rules.growing import GrowingOptions
from vit_patch_env.agents.multi_output_dqn.options import DQNOptions
from vit_patch_env.agents.schedule_bandit.options import ScheduleOptions
from vit_patch_env.arguments import POSITIONAL, PYTHON_ONLY, SAME_RUN, arguments, declared
from vit_patch_env.checks import PATH, Count, Share
from vit_patch_env.config import EnvConfig
from vit_patch_env.config.model import SizeConfig
from vit_patch_env.names import DatasetName, OptimizerName, PrecisionName
from vit_patch_env.patches.sampling import SamplingName

ActionsName = Literal["mask", "count", "top_k"]
"""Keys of `ACTIONS` in `agents_by_name/factory.py`."""

BestName = Literal["accuracy", "loss"]
"""Metrics in `runs/best_epoch.py`."""

WeightsName = Literal["newest", "best"]

TrackerName = Literal["wandb", "mlflow"]
"""Keys of `TRACKERS` in `runs/tracking.py`."""

Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]  # what Stable-Baselines3 takes
Texts = tuple[str, ...]


@arguments
class AgentOptions:
    """The values of agents, in groups: each belongs to some agents only."""

    sb3: Annotated[
        Texts, Doc("values of a Stable-Baselines3 algorithm, such as n_steps=64 ent_coef=0.01")
    ] = ()
    dqn: DQNOptions = field(default_factory=DQNOptions)
    bandit: BanditOptions = field(default_factory=BanditOptions)
    growing: GrowingOptions = field(default_factory=GrowingOptions)
    schedule_bandit: ScheduleOptions = field(default_factory=ScheduleOptions)

    @property
    def of_agent(self) -> dict[str, Any]:
        """The groups by name."""
        return {one.name: getattr(self, one.name) for one in declared(AgentOptions)}


@arguments
class ClusterOptions:
    """Where a command's runs are trained, if not by processes of this machine."""

    ray: Annotated[
        str | None,
        SAME_RUN,
        Doc(
            "train on the nodes of a Ray cluster: auto (the one that this machine is a node of) or "
            "its address; see docs/clusters.md"
        ),
    ] = None
    cpus_per_run: Annotated[
        Count, SAME_RUN, Doc("with --ray, cores that Ray reserves for a run, and its threads")
    ] = 1
    gpus_per_run: Annotated[
        float | None,
        Interval(ge=0, le=64),
        SAME_RUN,
        Doc(
            "with --ray, GPUs that Ray reserves for a run, 0.5 for two runs on each; by default 1 "
            "where the cluster has GPUs and --device is not cpu, else 0"
        ),
    ] = None


def on_this_machine(options: Any) -> Any:
    """The options of a command without those of a cluster, which no result depends on."""
    usual = {one.name: one.default for one in declared(ClusterOptions)}
    given = tuple(name for name in options.given if name not in usual)
    return replace(options, given=given, **usual)


@arguments
class TrainOptions(AgentOptions):
    """Train a ViT while an agent picks the patches it trains on."""

    agent: Annotated[
        str,
        Doc(
            "paper, branching, counting, bandit or schedule_bandit; pretrained, or the file of an "
            "agent that pretrain made; a fixed rule such as random, or a schedule such as "
            "quadratic or growing; matched: as many random patches as in another run; or an "
            "algorithm of Stable-Baselines3 (ppo, a2c, dqn, sac, ...). All of them are in "
            "docs/agents.md"
        ),
    ] = "paper"
    agent_learns: Annotated[bool, Doc("let a pre-trained agent continue to learn")] = False
    actions: Annotated[
        ActionsName,
        Doc(
            "how an algorithm selects patches: mask (MultiBinary), count (Discrete: how many, at "
            "random) or top_k (Box: a score for each, and how many)"
        ),
    ] = "mask"
    follow: Annotated[
        str | None,
        PATH,
        Doc("run whose number of patches in each step the agent matched repeats"),
    ] = None
    sampling: Annotated[SamplingName, Doc("how schedules and matched sample their patches")] = (
        "uniform"
    )
    seed: Annotated[Seed, Doc("seed of the ViT, its data and the agent")] = 0
    out: Annotated[
        str | None,
        PATH,
        SAME_RUN,
        Doc("run folder; by default runs/<dataset>__<agent>__<seed>__<time>"),
    ] = None
    overwrite: Annotated[bool, SAME_RUN, Doc("replace the run that the folder holds")] = False
    resume: Annotated[
        str | None,
        PATH,
        SAME_RUN,
        Doc("folder of an interrupted run to resume, with the options it was started with"),
    ] = None
    extend: Annotated[
        bool,
        SAME_RUN,
        Doc(
            "with --resume and more --epochs or --seconds than the run had: agree that what "
            "depends on the length of a run, such as --schedule cosine, changes its course there"
        ),
    ] = False
    given: Annotated[
        Texts, PYTHON_ONLY, SAME_RUN, Doc("names of the values that the command line gives")
    ] = field(default=(), compare=False)
    checkpoint_every: Annotated[
        str,
        SAME_RUN,
        Doc("steps (500) or time (5min, 30s) between checkpoints; never: only when stopped"),
    ] = "5min"
    checkpoints_kept: Annotated[
        Count, SAME_RUN, Doc("newest checkpoints kept; of a finished run one, to extend it")
    ] = 3
    log_interval: Annotated[Count, SAME_RUN, Doc("steps between TensorBoard points")] = 10
    video: Annotated[
        bool, SAME_RUN, Doc("write video.mp4, which shows the training in at most 30 s")
    ] = False
    track: Annotated[
        tuple[TrackerName, ...],
        SAME_RUN,
        Doc("also log to wandb (Weights & Biases), mlflow or both: see docs/runs-and-resuming.md"),
    ] = ()
    keep_best: Annotated[
        bool, Doc("also save the ViT's weights after the best epoch, as vit_best.safetensors")
    ] = False
    early_stopping: Annotated[
        int | None,
        Interval(ge=1),
        Doc("end the run after so many epochs that are not better than the best one"),
    ] = None
    best_by: Annotated[
        BestName, Doc("what makes an epoch the best one: validation accuracy or loss")
    ] = "accuracy"
    env: EnvConfig = field(default_factory=EnvConfig)


PrunerName = Literal["median", "halving", "none"]
"""Pruners in `tune/study.py`."""


@arguments
class TuneOptions(AgentOptions, ClusterOptions):
    """Search the values of an agent and of its reward over many short training runs."""

    agent: Annotated[str, Doc("paper, branching, bandit, or an algorithm of Stable-Baselines3")] = (
        "paper"
    )
    actions: Annotated[ActionsName, Doc("as for train")] = "mask"
    seeds: Annotated[
        tuple[Seed, ...],
        Doc("a run for each in every trial, which is judged by their mean validation accuracy"),
    ] = (0,)
    trials: Annotated[Count, SAME_RUN, Doc("of the study, those of earlier calls included")] = 20
    search: Annotated[
        Texts,
        Doc(
            "values to search, such as dqn.gamma alpha; by default all in docs/tuning.md that are "
            "not given on the command line"
        ),
    ] = ()
    given: Annotated[
        Texts,
        PYTHON_ONLY,
        Doc("names of values that are not searched by default though they are the usual ones"),
    ] = ()
    pruner: Annotated[
        PrunerName,
        Doc(
            "which trials end early: median (below the median of the others), halving (all but "
            "the best third, at some points of the run) or none"
        ),
    ] = "median"
    search_seed: Annotated[Seed, Doc("seed of the values that are tried")] = 0
    jobs: Annotated[
        Count,
        SAME_RUN,
        Doc(
            "parallel trials; on a CPU they share its cores; with --ray by default as many as the "
            "cluster has room for"
        ),
    ] = 1
    out: Annotated[
        str | None,
        PATH,
        SAME_RUN,
        Doc("the study's folder, which is resumed; by default runs/tune__<dataset>__<agent>"),
    ] = None
    env: EnvConfig = field(default_factory=EnvConfig)


ZooScript = Literal["train", "enjoy", "record_video"]
"""Modules of rl_zoo3."""


@arguments
class ZooOptions:
    """Train, optimise and show agents with rl_zoo3, which takes the arguments that follow."""

    script: Annotated[
        ZooScript, POSITIONAL, Doc("of rl_zoo3; vit-patch zoo train --help lists its arguments")
    ]
    args: Annotated[Texts, PYTHON_ONLY, Doc("of the script")] = ()


PRETRAIN_ENV = EnvConfig(
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
"""A small ViT on a share of the images, which trains in seconds."""


@arguments
class PretrainOptions(AgentOptions, ClusterOptions):
    """Train an agent over many short training runs, and save it for `train --agent FILE`."""

    agent: Annotated[
        str,
        Doc(
            "bandit, schedule_bandit, counting, paper, branching, or an algorithm of "
            "Stable-Baselines3"
        ),
    ] = "bandit"
    episodes: Annotated[Count, Doc("short training runs to learn from")] = 200
    jobs: Annotated[
        Count, Doc("parallel environments, each in its own process with one thread")
    ] = 1
    budgets: Annotated[
        tuple[Count, ...],
        Doc(
            "epochs of each environment, to learn from runs of several lengths; by default --jobs "
            "environments of --epochs each"
        ),
    ] = ()
    tasks: Annotated[
        Texts,
        Doc(
            "learn across these tasks: training, or names: see docs/tasks.md; agents with a value "
            "for each patch need tasks of 8x8 patches; --data-dir then holds the folders of the "
            "data sets"
        ),
    ] = ()
    runs: Annotated[
        str | None,
        PATH,
        Doc(
            "folder of vit-patch compare --tasks: learn from its finished runs on the training "
            "tasks instead of new ones, for schedule_bandit"
        ),
    ] = None
    actions: Annotated[ActionsName, Doc("as for train")] = "mask"
    seed: Annotated[Seed, Doc("seed of the agent and of the ViTs")] = 0
    out: Annotated[str, PATH, SAME_RUN, Doc("the agent's file")] = "agent.zip"
    overwrite: Annotated[bool, SAME_RUN, Doc("replace the file if it exists")] = False
    resume: Annotated[
        str | None,
        PATH,
        SAME_RUN,
        Doc("file of an interrupted pretraining to resume, with the options it was started with"),
    ] = None
    given: Annotated[
        Texts, PYTHON_ONLY, SAME_RUN, Doc("names of the values that the command line gives")
    ] = field(default=(), compare=False)
    checkpoint_every: Annotated[str, SAME_RUN, Doc("as for train")] = "5min"
    env: EnvConfig = field(default_factory=lambda: PRETRAIN_ENV)


GIVEN_MODEL = Doc(
    "<module>:<function> of a run whose model is one: it is imported only if it is typed here"
)
RUN_WEIGHTS = Doc("those at the end of the run, or of its best epoch (train --keep-best)")


@arguments
class EvaluateOptions:
    """Load a run and print its test metrics again."""

    run: Annotated[str, PATH, POSITIONAL, Doc("folder that `vit-patch train` wrote")]
    data_dir: Annotated[str | None, PATH, Doc("where the images are now, if they have moved")] = (
        None
    )
    device: Annotated[str | None, Doc("another device than the run's")] = None
    model: Annotated[str | None, GIVEN_MODEL] = None
    weights: Annotated[WeightsName, RUN_WEIGHTS] = "newest"
    all_classes: Annotated[
        bool, Doc("show all classes, not the worst and the best five where there are more than ten")
    ] = False
    out: Annotated[
        str | None,
        PATH,
        Doc(
            "folder for predictions.csv, confusion.png and mistakes.png; by default they are "
            "written to the run's where they are missing"
        ),
    ] = None
    overwrite: Annotated[bool, Doc("replace these files in --out")] = False


PatchesName = Literal["all", "agent"]
"""Patches that `LoadedRun.predict` of `use/loaded_run.py` computes with."""

ExportName = Literal["safetensors", "torch-export", "onnx", "library"]
"""Formats in `use/formats.py`."""


@arguments
class PredictOptions:
    """Predict the classes of images with a run's ViT."""

    run: Annotated[
        str, PATH, POSITIONAL, Doc("folder that `vit-patch train` wrote, or a file of its weights")
    ]
    image: Annotated[tuple[str, ...], POSITIONAL, Doc("pictures, or folders of them")]
    patches: Annotated[
        PatchesName, Doc("all, or those that the agent keeps of each batch of images")
    ] = "all"
    top: Annotated[Count, Doc("most probable classes that are shown of each image")] = 5
    json: Annotated[bool, Doc("print JSON instead of a table, and nothing else")] = False
    batch_size: Annotated[
        int | None, Interval(ge=1), Doc("images per batch; by default that of the run")
    ] = None
    model: Annotated[str | None, GIVEN_MODEL] = None
    weights: Annotated[WeightsName, RUN_WEIGHTS] = "newest"
    device: Annotated[str | None, Doc("another device than the run's")] = None


@arguments
class ShowOptions:
    """Draw the patches that a run's agent keeps of images, and what its ViT predicts with them."""

    run: Annotated[str, PATH, POSITIONAL, Doc("folder that `vit-patch train` wrote")]
    image: Annotated[tuple[str, ...], POSITIONAL, Doc("pictures, or folders of them")]
    out: Annotated[str, PATH, Doc("folder for a picture of each image")] = "shown"
    overwrite: Annotated[bool, Doc("replace pictures that were drawn there")] = False
    top: Annotated[Count, Doc("most probable classes that are shown of each image")] = 3
    model: Annotated[str | None, GIVEN_MODEL] = None
    weights: Annotated[WeightsName, RUN_WEIGHTS] = "newest"
    device: Annotated[str | None, Doc("another device than the run's")] = None


@arguments
class ExportOptions:
    """Write a run's ViT in a format that other programs load, and check what was written."""

    run: Annotated[
        str, PATH, POSITIONAL, Doc("folder that `vit-patch train` wrote, or a file of its weights")
    ]
    format: Annotated[
        ExportName,
        Doc(
            "safetensors; torch-export, a .pt2 file that needs torch alone; onnx; or library: what "
            "the library that the model is of loads itself"
        ),
    ] = "safetensors"
    out: Annotated[str | None, PATH, Doc("what is written: a file, for a library hf: a folder")] = (
        None
    )
    overwrite: Annotated[bool, Doc("replace what was exported there")] = False
    model: Annotated[str | None, GIVEN_MODEL] = None
    weights: Annotated[WeightsName, RUN_WEIGHTS] = "newest"


DistilName = Literal["patches", "images"]
"""What `vit-patch distil` makes smaller."""


@arguments
class DistilOptions:
    """Write a smaller data set of a run's images, as a folder of images to train on."""

    run: Annotated[str, PATH, POSITIONAL, Doc("folder that `vit-patch train` wrote")]
    folder: Annotated[str, PATH, POSITIONAL, Doc("folder that the images are written to")]
    by: Annotated[
        DistilName,
        Doc(
            "patches: those that the agent drops of each image are blanked; or images: only those "
            "with the largest errors (EL2N) of the ViT on the agent's patches are kept"
        ),
    ] = "patches"
    keep: Annotated[
        int | None,
        Interval(ge=1),
        Doc("patches of an image, instead of the agent's own number after the run"),
    ] = None
    share: Annotated[
        Share | None,
        Doc("with --by images, the share of the training images of each class; by default half"),
    ] = None
    data_dir: Annotated[str | None, PATH, Doc("where the images are now, if they have moved")] = (
        None
    )
    overwrite: Annotated[bool, Doc("replace what was distilled there")] = False
    model: Annotated[str | None, GIVEN_MODEL] = None
    weights: Annotated[WeightsName, RUN_WEIGHTS] = "newest"
    device: Annotated[str | None, Doc("another device than the run's")] = None


@arguments
class CacheOptions:
    """Show the decoded images in the cache, and how to limit or remove them."""

    clear: Annotated[bool, Doc("remove all decoded images")] = False


BenchPrecision = Literal["auto", "fp32", "bf16"]
"""Precisions that the baselines are measured with too."""

BENCH_PATCHES = (64, 48, 40, 32, 16)
"""Numbers of patches in `bench/setups.py`."""


@arguments
class BenchOptions(SizeConfig):
    """Measure training steps and epochs against the baselines and the machine's peak speed."""

    model: Annotated[
        str | None,
        Doc(
            "measure steps of this model (as for train) on all, half and a quarter of its patches "
            "instead, beside its library's own"
        ),
    ] = None
    modes: Annotated[
        bool,
        Doc(
            "with --model, measure its steps as usual, compiled by torch.compile and by CUDA "
            "graphs instead, on all, half, a quarter and a sixteenth of its patches"
        ),
    ] = False
    n_patches: Annotated[
        tuple[Count, ...], Doc("numbers of patches that our own steps and epochs are measured at")
    ] = BENCH_PATCHES
    dataset: Annotated[DatasetName, Doc("as for train")] = "digits"
    data_dir: Annotated[str | None, PATH, Doc("as for train")] = None
    batch_size: Annotated[Count, Doc("images per training step")] = 128
    precision: Annotated[
        BenchPrecision, Doc("of our own code: auto (bf16 where the hardware has it), fp32 or bf16")
    ] = "auto"
    repeats: Annotated[Count, Doc("interleaved measurements of everything")] = 5
    max_repeats: Annotated[
        Count, Doc("maximum number of repeats, if they vary by more than 20 %")
    ] = 10
    steps: Annotated[Count, Doc("training steps per measurement of a step")] = 5
    epoch_steps: Annotated[
        int,
        Doc("steps per measurement of an epoch, a multiple of 10; CIFAR-10 has 351 in an epoch"),
    ] = 10
    device: Annotated[str, Doc("auto (CUDA where available), cpu, cuda or cuda:<n>")] = "auto"
    out: Annotated[str, PATH, Doc("folder for bench.json and bench.png")] = "bench"


@arguments
class PlanOptions(SizeConfig):
    """Compute what a training would cost: FLOPs, memory, communication and time, on a device."""

    model: Annotated[str, Doc("as for train; its weights are neither made nor downloaded")] = (
        "simple_vit"
    )
    images: Annotated[Count, Doc("training images; by default those of ImageNet-1k")] = 1_281_167
    classes: Annotated[Count, Doc("of the images")] = 1000
    channels: Annotated[Count, Doc("of the images")] = 3
    epochs: Annotated[
        int | float,
        Interval(gt=0, le=10**9),
        Doc("passes over the training images that the budget is worth on all patches"),
    ] = 300
    batch_size: Annotated[Count, Doc("images per training step, of all devices together")] = 1024
    agent: Annotated[
        str,
        Doc(
            "whose number of patches is known before a run: pretrained, the file of a bandit, a "
            "fixed rule such as random, or a schedule such as growing"
        ),
    ] = "pretrained"
    n_patches_desired: Annotated[
        int | None, Interval(ge=1), Doc("patches that a fixed rule keeps; by default 40/64 of them")
    ] = None
    growing: GrowingOptions = field(default_factory=GrowingOptions)
    device: Annotated[
        str,
        Doc(
            "h200, h100, a100, l40s, l4, rtx4090, v100 or t4, by their data sheets; or of this "
            "machine, whose steps are measured: auto, cpu, cuda or cuda:<n>"
        ),
    ] = "auto"
    devices: Annotated[Count, Doc("that train together, each on a part of every batch")] = 1
    precision: Annotated[
        PrecisionName,
        Doc("of matrix products: auto (bf16 where the device has it), fp32, bf16 or fp16"),
    ] = "auto"
    optimizer: Annotated[OptimizerName, Doc("as for train")] = "adam"
    ema: Annotated[bool, Doc("keep a moving average of the weights, as train --ema")] = False
    efficiency: Annotated[
        Share | None,
        Doc("share of the data sheet's peak FLOP/s that is reached; by default 0.3"),
    ] = None
    interconnect: Annotated[
        float | None,
        Interval(gt=0),
        Doc("bytes per second from a device to the others; by default the data sheet's"),
    ] = None
    json: Annotated[bool, Doc("print JSON instead of tables, and nothing else")] = False


@arguments
class CompareOptions(ClusterOptions):
    """Train every method with every seed on one data set, and save the results."""

    preset: Annotated[
        str,
        Doc(
            "smoke, table2, table2-cpu, budget, budget-cpu or budget-mid: defaults of the other "
            "values"
        ),
    ] = "smoke"
    tasks: Annotated[
        Texts,
        Doc(
            "compare on each of these tasks, instead of one data set: training, held-out, all, or "
            "names: see docs/tasks.md; --data-dir then holds the folders of the data sets"
        ),
    ] = ()
    methods: Annotated[
        Texts,
        Doc(
            "methods to compare, by name, see docs/comparing.md, or by the file of an agent that "
            "vit-patch pretrain wrote"
        ),
    ] = ()
    seeds: Annotated[
        tuple[Seed, ...], Doc("runs with one seed share initial weights and data order")
    ] = ()
    out: Annotated[
        str | None, PATH, Doc("the comparison's folder; by default results/<preset>")
    ] = None
    storage: Annotated[
        str | None,
        SAME_RUN,
        Doc(
            "with --ray, for nodes that do not share --out: a folder that they share or a URL of "
            "fsspec, such as s3://bucket/name, where a copy of the comparison is kept"
        ),
    ] = None
    jobs: Annotated[
        Count,
        Doc(
            "parallel runs; on a CPU they share its cores; with --ray by default as many as the "
            "cluster has room for"
        ),
    ] = 1
    given: Annotated[
        Texts, PYTHON_ONLY, SAME_RUN, Doc("names of the values that the command line gives")
    ] = field(default=(), compare=False)
    checkpoint_every: Annotated[str, Doc("as for train")] = "5min"
    env: EnvConfig = field(default_factory=EnvConfig)


MeasureStep = Literal[
    "machine", "tests", "modes-table1", "modes-vit-b", "bench", "bench-timm", "table2", "budget",
]  # fmt: skip
"""Steps in `measure/steps.py`."""


@arguments
class MeasureOptions:
    """Run the tests that need CUDA, benchmarks and small comparisons, within a time limit."""

    minutes: Annotated[
        float | None,
        Interval(gt=0),
        SAME_RUN,
        Doc("time limit, after which the same command continues; by default none"),
    ] = None
    steps: Annotated[
        tuple[MeasureStep, ...], SAME_RUN, Doc("only these steps: see docs/gpu.md; by default all")
    ] = ()
    small: Annotated[
        bool, Doc("the same steps at the smallest sizes, to try them: nothing is worth reporting")
    ] = False
    dataset: Annotated[str, Doc("of benchmark and comparisons, as for train")] = "digits"
    data_dir: Annotated[str | None, PATH, SAME_RUN, Doc("as for train")] = None
    epochs: Annotated[
        int | None, Interval(ge=1), Doc("of the runs that are compared; by default 20")
    ] = None
    jobs: Annotated[Count, SAME_RUN, Doc("parallel runs of a comparison, as for compare")] = 1
    device: Annotated[str, Doc("auto (CUDA where available), cpu, cuda or cuda:<n>")] = "auto"
    out: Annotated[str, PATH, SAME_RUN, Doc("folder of the measurements, which are resumed")] = (
        "results/measure"
    )


@arguments
class ReportOptions:
    """Write tables, plots and text from a comparison's files, without training."""

    folder: Annotated[str, PATH, POSITIONAL, Doc("folder that `vit-patch compare` wrote")]
    readme: Annotated[
        str | None,
        PATH,
        Doc("Markdown file whose lines between <!-- results --> and <!-- /results --> to replace"),
    ] = None
