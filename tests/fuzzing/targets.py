"""The files that are damaged, written by the commands themselves, and what reads them."""

import hashlib
import json
import random
import shutil
from functools import partial

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_model

from tests.conftest import TINY, TINY_OPTIONS
from tests.fabricated import fabricate
from tests.fuzzing.cases import Target
from tests.fuzzing.mutations import of_archive, of_bytes, of_index, of_json, of_table, of_tensors
from tests.interrupted_runs import StepLog, learn, new_agent
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.arguments import to_json
from vit_patch_env.checks import InputError
from vit_patch_env.config import EnvConfig
from vit_patch_env.data.store import Store
from vit_patch_env.experiments import RunCheckpoint, TrainingMonitor
from vit_patch_env.experiments.agents_by_name.agent_file import read_card, read_parameters
from vit_patch_env.experiments.agents_by_name.factory import make_agent, resolve_agent
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.compare.comparison import COMPARE_FIELDS
from vit_patch_env.experiments.compare.results import read_comparison, read_run
from vit_patch_env.experiments.options.commands import (
    EvaluateOptions,
    PretrainOptions,
    ReportOptions,
    TrainOptions,
    TuneOptions,
)
from vit_patch_env.experiments.report import report as report_module
from vit_patch_env.experiments.report.metrics import ComparisonMetrics
from vit_patch_env.experiments.report.plots import make_plots
from vit_patch_env.experiments.report.report import Report
from vit_patch_env.experiments.run_folder.folder import RunFolder, write_json
from vit_patch_env.experiments.run_folder.schemas import read_checked
from vit_patch_env.experiments.runs.environment import make_env
from vit_patch_env.experiments.runs.evaluate import Evaluation
from vit_patch_env.experiments.runs.pretrain_folder import PretrainFolder
from vit_patch_env.experiments.runs.resume import resumed_options
from vit_patch_env.experiments.tune.tuning import _saved_options
from vit_patch_env.models import make_model
from vit_patch_env.models.weights.files import read_weights
from vit_patch_env.system.files import _DIGEST_SIZE, _HEADER

QUIET = Console(quiet=True)
SHAPE = (3, 5, 4)


def all_targets(root, agents=("random", "paper")):
    """Targets of every kind in a new folder; checkpoints of these agents."""
    return [
        *comparison_targets(root),
        *run_targets(root),
        *(checkpoint_target(root, name) for name in agents),
        study_target(root),
        pretraining_target(root),
        *weights_targets(root),
        *cache_targets(root),
    ]


def fit_checksums(run):
    """Let result.json have the checksums of the files as they are."""

    def fit():
        result = run / "result.json"
        content = json.loads(result.read_bytes())
        content["files"] |= {
            name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in content["files"]
        }
        result.write_text(json.dumps(content))

    return fit


def comparison_targets(root):
    methods = ("simple_vit", "agentvit")
    epochs = fabricate(root / "c", methods=methods, seeds=(1,), epochs=3, side=4)
    flops = fabricate(root / "f", methods=methods, seeds=(1,), epochs=3, side=4,
                      env={"budget": "flops"})  # fmt: skip
    targets = []
    for folder in (epochs, flops):
        run = folder / "runs" / "agentvit__1"
        of_run = {"read_run": partial(read_run, run)}
        of_comparison = {
            "read_comparison": partial(read_comparison, folder),
            "report": partial(reported, folder, root / "report"),
            "plots": partial(plotted, folder),
        }
        opened = RunFolder(run)
        for name, mutation, own in (
            ("config.json", of_json, {"options": lambda opened=opened: opened.options}),
            ("result.json", of_json, {"result": opened.read_result}),
            ("metrics.csv", of_table, {"progress": opened.progress}),
            ("steps.csv", of_table, {"steps": opened.read_steps}),
            ("selected.csv", of_table, {}),
        ):
            fit = None if name == "result.json" else fit_checksums(run)
            readers = {**of_run, **own, **of_comparison}
            targets.append(Target(run / name, mutation, readers, 1 + len(own), folder, fit))
        path = folder / "compare.json"
        own = {"fields": partial(read_checked, path, COMPARE_FIELDS)}
        targets.append(Target(path, of_json, {**own, **of_comparison}, 2, folder))
    return targets


def reported(folder, out):
    """A comparison's report without plots, written elsewhere."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    report = Report(ReportOptions(folder=str(out)), QUIET)
    report.prepare()
    before, report_module.make_plots = report_module.make_plots, lambda _: []
    try:
        report.run()
    finally:
        report_module.make_plots = before


def plotted(folder):
    comparison = read_comparison(folder)
    if comparison.runs:
        make_plots(ComparisonMetrics(comparison))


def run_targets(root):
    run = root / "run"
    main(["train", *TINY_OPTIONS, "--epochs", "1", "--out", str(run)])
    agent = run / "agent.zip"
    readers = {
        "options": lambda: RunFolder(run).options,
        "files": lambda: RunFolder(run).check_files("config.json", "vit.safetensors", "agent.zip"),
        "evaluate": lambda: evaluated(run),
    }
    of_agent = {
        "card": lambda: read_card(agent),
        "parameters": lambda: read_parameters(agent),
        "evaluate": lambda: evaluated(run),
        "train": lambda: learnt(agent),
    }
    unfinished = root / "unfinished"
    unfinished.mkdir()
    shutil.copy(run / "config.json", unfinished)
    of_unfinished = {"resume": lambda: resumed_options(TrainOptions(resume=str(unfinished)))}
    fit = fit_checksums(run)
    return [
        Target(unfinished / "config.json", of_json, of_unfinished, 1, unfinished),
        Target(run / "config.json", of_json, readers, 2, run, fit),
        Target(run / "result.json", of_json, readers, 2, run),
        Target(run / "vit.safetensors", of_bytes, readers, 2, run, fit),
        Target(agent, of_archive, of_agent, 2, run, fit),
    ]


def evaluated(run):
    evaluation = Evaluation(EvaluateOptions(run=str(run)), QUIET)
    evaluation.prepare()
    evaluation.run()


def learnt(path):
    """An agent from a file that continues to learn."""
    given = TrainOptions(agent=str(path), agent_learns=True, env=EnvConfig(**TINY))
    options = resolve_agent(given)
    agent = make_agent(options, make_env(options.env))
    agent.learn(3)


def checkpoint_target(root, name):
    folder = root / f"checkpoints of {name}"
    learn(new_agent(name)[0], folder, stop_at=9)
    (path,) = CheckpointFolder(folder).files

    def of_checkpoint(rng, content, others):
        if rng.integers(8) == 0:
            return of_bytes(rng, content, others)
        body = of_tensors(rng, content[len(_HEADER) : -_DIGEST_SIZE], others)
        return _HEADER + body + hashlib.sha256(_HEADER + body).digest()

    def prepare():
        checkpoint = RunCheckpoint(folder, every="never", resume=True)
        checkpoint.prepare()

    readers = {"prepare": prepare, "resume": partial(resumed, folder, name)}
    return Target(path, of_checkpoint, readers, 1, folder)


def resumed(folder, name):
    """A run that is resumed from the folder's checkpoint of step 9, and its next step."""
    generators = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    agent, _ = new_agent(name)
    log, monitor = StepLog(), TrainingMonitor(max_episodes=1)  # as in `learn`
    checkpoint = RunCheckpoint(folder, every="never", callback=[monitor, log], resume=True)
    checkpoint.folder.save = lambda *_: (
        None
    )  # of the resumed run, which is not to change the folder
    try:
        checkpoint.prepare()
        # A value of the right type that means something else, such as a switch of the algorithm, is
        # found when it is used, if at all: only restoring and the next step are tried.
        agent.learn(10, callback=checkpoint)
    except InputError:
        raise
    except Exception as error:
        if not checkpoint.restoring:
            raise
        raise checkpoint.restoring_error(error) from error
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        torch.set_rng_state(generators[2])


def study_target(root):
    path = root / "study" / "study.json"
    path.parent.mkdir()
    write_json(path, {"options": to_json(TuneOptions()), "given": ["epochs"]})
    readers = {"options": lambda: _saved_options(path)}
    return Target(path, of_json, readers, 1, path.parent)


def pretraining_target(root):
    folder = PretrainFolder(root / "pretrained" / "agent.zip")
    folder.path.mkdir(parents=True)
    folder.create(PretrainOptions(), compiled_attention=True)
    options = PretrainOptions(resume=str(folder.agent))
    readers = {
        "options": lambda: folder.resumed_options(options),
        "attention": lambda: folder.compiled_attention,
    }
    return Target(folder.path / "config.json", of_json, readers, 2, folder.path)


def weights_targets(root):
    """Weights to start from: of safetensors, and a training checkpoint of torch.save."""
    folder = root / "weights"
    folder.mkdir()
    config = EnvConfig(**TINY)
    own = make_model("simple_vit", n_classes=4, **config.sizes)
    save_model(own, str(folder / "vit.safetensors"))
    torch.save({"model": own.state_dict(), "epoch": 3}, folder / "vit.pt")

    def started(path):
        """An environment whose training starts from the weights."""
        env = ViTPatchSelectEnv(**TINY, weights=path)
        env.read_weights()
        env.reset(seed=0)

    return [
        Target(
            path, mutation, {"read": partial(read_weights, path), "start": partial(started, path)},
            1, folder,
        )
        for path, mutation in (
            (folder / "vit.safetensors", of_bytes), (folder / "vit.pt", of_tensors),
        )
    ]  # fmt: skip


def cache_targets(root):
    folder = root / "cache" / "store"
    rng = np.random.default_rng(0)
    keys = [f"{number:032}".encode() for number in range(6)]
    store = opened(folder)
    rows = store.rows(keys)
    for row in rows:
        store.put(row, rng.integers(0, 256, SHAPE, dtype=np.uint8))
    store.save()

    def read():
        found = opened(folder)
        places = found.rows(keys)
        found.states(places)
        found.channel_sums(places)
        found.contents(places)
        images, _ = found.read(places)
        assert images.shape == (6, *SHAPE)

    target = Target(folder / "index", of_index, {"read": read}, 1, folder.parent / "nothing")
    return [target, target._replace(path=folder / "pixels", mutation=of_bytes)]


def opened(folder):
    store = Store(folder, SHAPE)
    with store.locked():
        store.load()
    return store
