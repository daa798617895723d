"""Training on CUDA: `make gpu` runs these tests, and `pytest -m cuda`.

Most of them run on a CPU as well, where graphs are tapes of torch's operations, so that only what
needs CUDA is run there for the first time.
"""

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import TINY
from tests.test_graphed import COUNTS, SIZES, Recorded, Switching, tiny
from tests.test_recipe import in_fp16, trained, weights_of
from tests.test_training import make_run
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.data.splits import Split
from vit_patch_env.models import make_model
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.training.graphed import WARM_UP_STEPS, StepGraphs

CUDA = torch.device("cuda")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    return torch.device(request.param)


def graphs_on(device):
    """CUDA graphs, or on a CPU what stands for them."""
    return StepGraphs(device) if device.type == "cuda" else StepGraphs(device, capturing=Recorded())


def keep_on(device, n_keep):
    return None if n_keep is None else torch.arange(n_keep, device=device)


def losses(run, counts=COUNTS):
    device = run.trainer.precision.device
    return [run.step(keep_on(device, n)).loss for n in counts]


@pytest.mark.cuda
@pytest.mark.parametrize("with_graphs", [False, True])
def test_a_step_on_cuda_does_not_wait_for_the_host_before_its_end(with_graphs):
    graphs = StepGraphs(CUDA) if with_graphs else None
    run = make_run(device=CUDA, dtype=torch.bfloat16, graphs=graphs)
    keep = torch.tensor([1, 4, 9], device="cuda")
    for _ in range(WARM_UP_STEPS + 1):
        run.step(keep)  # the first step allocates, the last one captures
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.trainer.step(run.batch, keep)
        run.observe(run.stream.next().images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_training_is_the_same_as_on_a_cpu(device):
    ours, on_cpu = make_run(device=device), make_run()
    assert losses(ours) == pytest.approx(losses(on_cpu), rel=1e-3)
    splits = [
        Split(run.stream.images, run.stream.labels) for run in (ours, on_cpu)
    ]  # on their devices
    one, other = (run.evaluate(split) for run, split in zip((ours, on_cpu), splits, strict=True))
    assert one.loss == pytest.approx(other.loss, rel=1e-2)
    assert ours.stopwatch.seconds["train"] > 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"accumulate": 2, "clip_grad_norm": 0.1, "ema": 0.9}, {"optimizer": "adamw"}],
    ids=["plain", "accumulated", "adamw"],
)
def test_steps_by_graphs_equal_those_without(kwargs, dtype, tolerance, device):
    """Up to the order of sums, in which some of CUDA's kernels are free."""
    options = {"device": device, "dtype": dtype, **kwargs}
    run, plain = make_run(graphs=graphs_on(device), **options), make_run(**options)
    assert losses(run) == pytest.approx(losses(plain), rel=tolerance)
    assert run.trainer._graphs.n_graphs == 3
    assert torch.allclose(weights_of(run), weights_of(plain), atol=10 * tolerance)


def test_a_run_with_graphs_is_copied_pickled_and_resumed(device):
    run = make_run(device=device, graphs=graphs_on(device), accumulate=2)
    losses(run, [6] * 5)  # within an accumulation
    assert run.trainer._graphs.n_graphs == 1
    resumed = make_run(device=device, graphs=graphs_on(device), accumulate=2)
    losses(resumed, [6] * 5)
    resumed.load_state_dict(run.state_dict())
    others = [resumed, copy.deepcopy(run)]
    if device.type == "cuda":
        others.append(pickle.loads(pickle.dumps(run)))
    expected = losses(run, [6] * 8)
    for other in others:
        assert losses(other, [6] * 8) == pytest.approx(expected, rel=1e-4)
        assert other.trainer._graphs.n_graphs == 1


class WithDropout(SimpleViT):
    """Draws random numbers on the device."""

    def forward(self, images, keep=None):
        return F.dropout(super().forward(images, keep), 0.5, training=self.training)


def with_dropout():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return WithDropout(n_classes=4, **SIZES)


def test_each_replay_draws_other_numbers(device):
    run = make_run(model=with_dropout(), device=device, graphs=graphs_on(device), learning_rate=0.0)
    with torch.random.fork_rng():
        found = [run.trainer.step(run.batch).item() for _ in range(WARM_UP_STEPS + 4)]
    assert run.trainer._graphs.n_graphs == 1
    assert len(set(found[WARM_UP_STEPS:])) == 4


class Waiting(WithDropout):
    """Waits for the device, which a graph cannot."""

    def forward(self, images, keep=None):
        logits = super().forward(images, keep)
        return logits if logits.sum().item() < 1e9 else logits.nan_to_num()


@pytest.mark.cuda
def test_a_model_that_waits_trains_without_graphs_after_one_warning():
    model = Waiting(n_classes=4, **SIZES)
    run = make_run(model=model, device=CUDA, graphs=StepGraphs(CUDA))
    stream = torch.cuda.current_stream()
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        found = losses(run, [None] * (WARM_UP_STEPS + 6))
    shown = [str(one.message) for one in given if "cuda_graphs" in str(one.message)]
    assert len(shown) == 1
    assert run.trainer._graphs.n_graphs == 0
    assert len(set(found)) == len(found)  # dropout goes on
    assert torch.cuda.current_stream() == stream
    other = make_run(device=CUDA, graphs=StepGraphs(CUDA))  # another model's graphs do too
    losses(other)
    assert other.trainer._graphs.n_graphs == 3


class WaitingOnFew(WithDropout):
    """Waits for the device in steps on few patches."""

    def pool(self, tokens):
        pooled = super().pool(tokens)
        if tokens.shape[1] < 5:
            pooled.sum().item()
        return pooled


@pytest.mark.cuda
def test_a_failed_capture_leaves_cuda_and_random_numbers_usable():
    def run_of(make):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = make(n_classes=4, **SIZES)
        return make_run(model=model, device=CUDA, graphs=StepGraphs(CUDA), learning_rate=0.0)

    other, run = run_of(WithDropout), run_of(WaitingOnFew)
    losses(other, [None] * (WARM_UP_STEPS + 1))
    losses(run, [None] * (WARM_UP_STEPS + 2))
    assert run.trainer._graphs.n_graphs == 1
    with pytest.warns(UserWarning, match="1 graph captured before will not be replayed"):
        losses(run, [4] * (WARM_UP_STEPS + 2))
    torch.cuda.empty_cache()
    batch = other.batch
    for one in (run, other):  # as usual, and by a graph that another model has captured before
        found = [one.trainer.step(batch).item() for _ in range(4)]
        assert len(set(found)) == 4
        again = []
        for _ in range(2):
            torch.cuda.manual_seed(5)
            again.append(one.trainer.step(batch).item())
        assert again[0] == pytest.approx(again[1], rel=1e-4)
    assert (run.trainer._graphs.n_graphs, other.trainer._graphs.n_graphs) == (0, 1)
    later = run_of(WithDropout)
    losses(later)
    assert later.trainer._graphs.n_graphs == 3


def test_patch_dropout_is_captured_and_draws_other_patches(device):
    pytest.importorskip("timm")
    runs = []
    for graphs in (graphs_on(device), None):
        model = tiny(partial(make_model, "patch_dropout"))
        runs.append(make_run(model=model, device=device, graphs=graphs, learning_rate=0.0))
    run, plain = runs
    batch = run.batch
    found, expected = ([one.trainer.step(batch).item() for _ in range(8)] for one in runs)
    assert found == pytest.approx(expected, rel=1e-4)
    assert len(set(found)) == 8
    assert run.trainer._graphs.n_graphs == 1
    assert torch.equal(*(one.trainer.model.get_extra_state() for one in (run, plain)))


@pytest.mark.parametrize("at", [2, WARM_UP_STEPS + 1])
def test_steps_with_other_weights_are_computed_as_usual(at, device):
    model = tiny(Switching, steps=range(at, 9))
    run = make_run(model=model, device=device, graphs=graphs_on(device))
    with pytest.warns(UserWarning, match="gradients to different weights"):
        found = losses(run, [None] * 7)
    assert run.trainer._graphs.n_graphs == 0
    assert len(set(found)) == 7
    second = run.trainer.model.second.weight.cpu()
    assert not torch.equal(second, tiny(Switching, steps=()).second.weight)


def test_the_scale_of_fp16_is_part_of_the_graph_and_may_change(device, monkeypatch):
    if device.type == "cpu":
        in_fp16(monkeypatch)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    run, plain = (
        make_run(device=device, dtype=dtype, graphs=graphs) for graphs in (graphs_on(device), None)
    )
    for one in (run, plain):
        losses(one, [None] * 5)
        one.trainer.update._scale._scaler._scale.fill_(2.0**10)
    assert losses(run, [None] * 4) == pytest.approx(losses(plain, [None] * 4), rel=1e-2)
    assert run.trainer._graphs.n_graphs == 1
    scales = [one.trainer.update._scale.state_dict()["scale"] for one in (run, plain)]
    assert scales == [2.0**10] * 2


@pytest.mark.cuda
def test_an_environment_with_graphs_trains_as_one_without():
    kwargs = TINY | {"device": "cuda", "epochs": 3}
    with_graphs, plain = (ViTPatchSelectEnv(**kwargs, cuda_graphs=one) for one in (True, False))
    for env in (with_graphs, plain):
        env.reset(seed=0)
    ours, theirs = (trained(env, 100) for env in (with_graphs, plain))
    assert len(ours) == len(theirs) == 21
    assert [one["loss"] for one in ours] == pytest.approx([one["loss"] for one in theirs], rel=1e-3)
    assert with_graphs.last_episode.run.trainer._graphs.n_graphs >= 1
    one, other = (env.last_episode.evaluate("test") for env in (with_graphs, plain))
    assert one.loss == pytest.approx(other.loss, rel=1e-2)


@pytest.mark.cuda
def test_a_model_whose_shapes_depend_on_images_trains_without_graphs():
    env = ViTPatchSelectEnv(**TINY | {"device": "cuda", "model": "ats_vit"}, cuda_graphs=True)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without cuda_graphs: the model's shapes depend"):
        trained(env, 3)


@pytest.mark.cuda
def test_compiled_steps_on_cuda_equal_those_that_are_not():
    model = SimpleViT(n_classes=4, **SIZES)
    run, plain = (
        make_run(model=copy.deepcopy(model), device=CUDA, compiled=one) for one in (True, False)
    )
    assert losses(run, [5, 9, None, 5]) == pytest.approx(losses(plain, [5, 9, None, 5]), rel=1e-3)
