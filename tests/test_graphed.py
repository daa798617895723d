"""Steps by graphs: which are captured, what they read and write, and when there are none.

All but CUDA itself is tried on a CPU, where a graph is a tape of torch's operations; test_cuda.py
has the same steps on CUDA.
"""

import copy
import pickle
import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.conftest import TINY
from tests.test_recipe import weights_of
from tests.test_training import make_run
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.checks import ArgumentError
from vit_patch_env.data.batches import Batch
from vit_patch_env.models import make_model
from vit_patch_env.models.simple_vit import SimpleViT
from vit_patch_env.training import graphed
from vit_patch_env.training.graphed import WARM_UP_STEPS, StepGraphs, graphs_for
from vit_patch_env.training.loss import CrossEntropy

CPU = torch.device("cpu")


class Tape(TorchDispatchMode):
    """Torch's operations, which can be repeated on the same memory: Python code is not.

    Args:
        generators: that may be drawn from, besides torch's own.
    """

    def __init__(self, generators):
        super().__init__()
        self.generators = generators
        self.calls = []
        self.written = []  # what was written to, and its values before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        generator = kwargs.get("generator")
        if generator is not None and not self.knows(generator):
            raise RuntimeError("increase offset for a generator not in capture mode")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.written += [(one, one.clone()) for one in tree_leaves(value)]
        found = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, found))
        return found

    def knows(self, generator):
        """By the state, as operations get another object for the same generator."""
        state = generator.get_state()
        return any(torch.equal(one.get_state(), state) for one in self.generators)

    @torch.no_grad()
    def record(self, compute):
        """What a pass returns, whose values and effects are undone as far as torch has them."""
        states = [one.get_state() for one in self.generators]
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), self:
            outputs = compute()
        for one, value in reversed(self.written):
            one.copy_(value)
        for one, state in zip(self.generators, states, strict=True):
            one.set_state(state)
        return outputs

    @torch.no_grad()
    def repeat(self):
        for func, args, kwargs, found in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorded:
    """Captures as CUDA does: nothing is computed, then always with the same memory."""

    def __init__(self, fails_at=None):
        self.n_warm_ups = self.n_captures = self.n_replays = 0
        self.fails_at = fails_at
        self.weights = []

    def __call__(self, device):
        return self

    def addresses(self):
        return [
            (one.data_ptr(), None if one.grad is None else one.grad.data_ptr())
            for one in self.weights
        ]

    def assert_same(self, captured_with):
        """Whether the memory is that of the capture, in which some weights had no gradient."""
        for (weight, gradient), (weight_then, gradient_then) in zip(
            self.addresses(), captured_with, strict=True
        ):
            assert weight == weight_then
            assert gradient_then in (None, gradient)

    def warm_up(self, compute):
        self.n_warm_ups += 1
        return compute()

    def capture(self, compute, generators):
        if self.n_captures == self.fails_at:
            try:
                raise RuntimeError("operation not permitted\nwhen stream is capturing")
            finally:
                raise RuntimeError("the capture is invalid")
        tape, captured_with = Tape(generators), self.addresses()
        outputs = tape.record(compute)
        self.n_captures += 1

        def replay():
            self.n_replays += 1
            self.assert_same(captured_with)
            tape.repeat()
            return outputs

        return replay


SIZES = {"image_size": 16, "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 32}


def tiny(make, **options):
    """A small model, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(n_classes=4, **SIZES, **options)


def graphed_run(recorded=None, **kwargs):
    """A run with graphs, and what captures them."""
    recorded = recorded or Recorded()
    options = {
        name: kwargs.pop(name) for name in ("max_graphs", "data_dependent") if name in kwargs
    }
    run = make_run(graphs=StepGraphs(CPU, capturing=recorded, **options), **kwargs)
    recorded.weights = run.trainer.update.parameters
    return run, recorded


def keep_of(n_keep):
    return None if n_keep is None else torch.arange(n_keep)


COUNTS = [4, None, 4, 4, 9, 4, None, 4, 9, None, 9, 4, None, 9, 4]
"""Patches of steps: each number is captured at its fourth step."""


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"accumulate": 2, "clip_grad_norm": 0.1, "ema": 0.9},
        {"accumulate": 4, "optimizer": "adamw", "weight_decay": 0.1},
        {"loss": CrossEntropy(0.1), "optimizer": "sgd", "learning_rate": 0.1},
    ],
)
def test_steps_by_graphs_are_the_steps_without_them(kwargs):
    (run, recorded), plain = graphed_run(**kwargs), make_run(**kwargs)
    results = [(run.step(keep_of(n)), plain.step(keep_of(n))) for n in COUNTS]
    for ours, theirs in results:
        assert ours.loss == theirs.loss
        assert (ours.observation == theirs.observation).all()
    assert torch.equal(weights_of(run), weights_of(plain))
    assert (recorded.n_captures, recorded.n_warm_ups) == (3, 3 * WARM_UP_STEPS)
    assert recorded.n_replays == len(COUNTS) - recorded.n_warm_ups
    assert run.trainer._graphs.n_graphs == 3


def test_results_of_a_step_are_not_overwritten_by_the_next():
    run, _ = graphed_run()
    batches = [run.stream.next() for _ in range(WARM_UP_STEPS + 2)]
    for batch in batches[:-2]:
        run.trainer.step(batch)
    loss = run.trainer.step(batches[-2])
    logits, before = run.trainer.logits, (loss.clone(), run.trainer.logits.clone())
    run.trainer.step(batches[-1])
    assert torch.equal(loss, before[0])
    assert torch.equal(logits, before[1])


def test_there_is_a_graph_for_each_shape_and_rate():
    run, recorded = graphed_run()
    images, labels = run.batch
    soft = torch.eye(4)[labels]
    own = torch.arange(5).expand(len(labels), 5)
    for inputs in ((images, labels), (images[:4], labels[:4]), (images, soft)):
        for keep in (None, torch.arange(5)):
            for _ in range(WARM_UP_STEPS + 1):
                run.trainer.step(Batch(*inputs), keep)
    for _ in range(WARM_UP_STEPS + 1):
        run.trainer.step(run.batch, own)
    assert recorded.n_captures == 7
    run.trainer.model.train_rate = None  # a model without one
    compute = run.trainer._pass
    for rate in (0.5, 0.75):
        for _ in range(WARM_UP_STEPS + 1):
            run.trainer._graphs.run(
                lambda inputs: compute(None, inputs),
                graphed.Inputs(images, labels, None),
                rate,
                run.trainer.update.parameters,
            )
    assert recorded.n_captures == 9


def test_more_kinds_of_steps_than_graphs_are_computed_as_usual():
    (run, recorded), plain = graphed_run(max_graphs=1), make_run()
    for n in COUNTS:
        assert run.step(keep_of(n)).loss == plain.step(keep_of(n)).loss
    assert recorded.n_captures == 1
    assert torch.equal(weights_of(run), weights_of(plain))


def warned(run, counts):
    """The losses of steps, and the messages of warnings about graphs in them."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        found = [run.step(keep_of(n)).loss for n in counts]
    return found, [str(one.message) for one in given if "cuda_graphs" in str(one.message)]


def test_after_too_many_kinds_of_steps_no_more_are_captured(monkeypatch):
    monkeypatch.setattr(graphed, "MAX_KINDS", 4)
    run, recorded = graphed_run()
    counts = [3] * (WARM_UP_STEPS + 1) + [*range(4, 15)] * (WARM_UP_STEPS + 1) + [3]
    found, messages = warned(run, counts)
    assert messages == [
        "training steps are computed without cuda_graphs: more than 4 kinds of shapes and rates; "
        "1 graph captured before will be replayed"
    ]
    assert (recorded.n_captures, recorded.n_replays) == (1, 2)
    assert recorded.n_warm_ups == WARM_UP_STEPS + 3  # the others are computed where they are used
    plain = make_run()
    assert found == [plain.step(keep_of(n)).loss for n in counts]


class Annealed(SimpleViT):
    """Has another rate in each step."""

    def train_rate(self, progress):
        return 1 - progress / 2

    def forward(self, images, keep=None, *, rate=1.0):
        return super().forward(images, keep) * rate


def test_a_rate_of_each_step_is_told(monkeypatch):
    monkeypatch.setattr(graphed, "MAX_KINDS", 5)
    run, recorded = graphed_run(model=tiny(Annealed))
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for i in range(20):
            run.trainer.step(run.batch, progress=i / 20)
    (warning,) = given
    assert "more than 5 kinds of shapes and rates; 0 graphs" in str(warning.message)
    assert (recorded.n_captures, recorded.n_warm_ups) == (0, 5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"recorded": Recorded(fails_at=0)}, "RuntimeError: operation not permitted$"),
        ({"recorded": Recorded(fails_at=1)}, "not permitted; 1 graph captured before will not be "),
        ({"data_dependent": True}, "the model's shapes depend on the images$"),
    ],
)
def test_what_cannot_be_captured_is_computed_as_usual_after_one_warning(options, reason):
    (run, recorded), plain = graphed_run(accumulate=2, **options), make_run(accumulate=2)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        for n in COUNTS:
            assert run.step(keep_of(n)).loss == plain.step(keep_of(n)).loss
    (warning,) = given
    assert re.search(
        f"^training steps are computed without cuda_graphs: .*{reason}", str(warning.message)
    )
    assert torch.equal(weights_of(run), weights_of(plain))
    assert recorded.n_captures == (recorded.fails_at or 0)
    assert run.trainer._graphs.n_graphs == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(run).step(keep_of(5))


def test_models_whose_shapes_depend_on_images_are_known():
    for name, expected in (("simple_vit", False), ("ats_vit", True)):
        model = tiny(partial(make_model, name))
        assert graphs_for(model, CPU)._data_dependent == expected


class WithUnused(SimpleViT):
    """Has a weight that no gradient reaches, which must not decay either."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.unused = nn.Parameter(torch.ones(3))


def test_weights_without_a_gradient_stay_without_one():
    run, recorded = graphed_run(
        model=tiny(WithUnused), optimizer="adamw", weight_decay=0.5, accumulate=2
    )
    for _ in range(2 * WARM_UP_STEPS):
        run.step()
    assert recorded.n_replays
    assert run.trainer.model.unused.grad is None
    assert run.trainer.model.unused.tolist() == [1, 1, 1]


class Switching(SimpleViT):
    """A second head takes part in the steps with these numbers."""

    def __init__(self, *, steps, **sizes):
        super().__init__(**sizes)
        self.second = nn.Linear(sizes["dim"], sizes["n_classes"])
        self.steps, self.step = steps, 0

    def pool(self, tokens):
        self.step += 1
        return tokens.mean(1)

    def forward(self, images, keep=None):
        pooled = self.pool(self.transform(self.embed(images, keep)))
        logits = self.head(pooled)
        return logits + self.second(pooled) if self.step in self.steps else logits


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("at", [2, WARM_UP_STEPS, WARM_UP_STEPS + 1])
def test_steps_of_a_kind_with_other_weights_are_not_captured(at, accumulate):
    """In a warm-up step or in the capture, of which a second pass, as usual, is the fallback."""
    steps = range(at, 9)
    captured_too = at == WARM_UP_STEPS + 1
    run, recorded = graphed_run(model=tiny(Switching, steps=steps), accumulate=accumulate)
    plain_steps = range(at, 8) if captured_too else steps
    plain = make_run(model=tiny(Switching, steps=plain_steps), accumulate=accumulate)
    found, messages = warned(run, [None] * 7)
    assert found == [plain.step().loss for _ in range(7)]
    assert torch.equal(weights_of(run), weights_of(plain))
    (message,) = messages
    assert message.endswith("cuda_graphs: steps of one kind give gradients to different weights")
    assert recorded.n_captures == captured_too
    assert recorded.n_replays == run.trainer._graphs.n_graphs == 0


def test_a_capture_leaves_waiting_gradients_of_other_weights():
    """Those of a batch before, of another kind, to which the graph must not add either."""
    run, plain = (make(model=tiny(BySize), accumulate=2) for make in (only_run, make_run))
    counts = [4, None] * 6
    assert [run.step(keep_of(n)).loss for n in counts] == [
        plain.step(keep_of(n)).loss for n in counts
    ]
    assert run.trainer._graphs.n_graphs == 2
    assert torch.equal(weights_of(run), weights_of(plain))


class BySize(WithUnused):
    """Uses its further weight on few patches only."""

    def pool(self, tokens):
        pooled = super().pool(tokens)
        return pooled * self.unused.sum() if tokens.shape[1] < 5 else pooled


def only_run(**kwargs):
    return graphed_run(**kwargs)[0]


def test_what_python_decides_stays_as_captured():
    """As docs/gpu.md says: the stand-in has to do it as CUDA does, or it could hide an error."""

    class Counting(SimpleViT):
        def forward(self, images, keep=None):
            self.n_calls = getattr(self, "n_calls", 0) + 1
            return super().forward(images, keep) * self.n_calls

    run, _ = graphed_run(model=tiny(Counting))
    for _ in range(WARM_UP_STEPS + 4):
        run.step()
    assert run.trainer.model.n_calls == WARM_UP_STEPS + 1


def patch_dropout():
    pytest.importorskip("timm")
    return tiny(partial(make_model, "patch_dropout"))


def test_a_generator_of_the_model_goes_on_in_replays():
    run, plain = only_run(model=patch_dropout()), make_run(model=patch_dropout())
    for n in COUNTS:
        assert run.step(keep_of(n)).loss == plain.step(keep_of(n)).loss
    assert run.trainer._graphs.n_graphs == 3
    states = [one.trainer.model.get_extra_state() for one in (run, plain)]
    assert torch.equal(*states)


def test_a_generator_that_is_not_named_cannot_be_captured(monkeypatch):
    model = patch_dropout()
    monkeypatch.setattr(type(model), "random_generators", ())
    _, messages = warned(only_run(model=model), [None] * 5)
    assert len(messages) == 1
    assert "not in capture mode" in messages[0]


def test_the_reason_is_an_error_of_the_capture_not_of_the_caller():
    run, _ = graphed_run(Recorded(fails_at=0))
    try:
        raise KeyError("of the caller")
    except KeyError:
        _, messages = warned(run, [None] * 5)
    assert [one.partition("graphs: ")[2] for one in messages] == [
        "RuntimeError: operation not permitted"
    ]


@pytest.mark.parametrize("n_steps", [5, 6])  # within an accumulation, and between two
def test_a_run_with_graphs_is_copied_and_resumed(n_steps):
    run, recorded = graphed_run(accumulate=2)
    for _ in range(n_steps):
        run.step(keep_of(6))
    assert recorded.n_replays
    resumed, again = graphed_run(accumulate=2)
    for _ in range(WARM_UP_STEPS + 2):
        resumed.step(keep_of(6))
    resumed.load_state_dict(run.state_dict())
    assert resumed.trainer._graphs.n_graphs == 0
    again.weights = resumed.trainer.update.parameters
    copied = copy.deepcopy(run)
    assert copied.trainer._graphs.n_graphs == 0
    plain = make_run(accumulate=2)
    plain.load_state_dict(run.state_dict())
    one_capture = again.n_captures
    for _ in range(8):
        losses = {one.step(keep_of(6)).loss for one in (resumed, run, plain)}
        assert len(losses) == 1
    assert again.n_captures == one_capture + 1  # it has captured its own
    assert torch.equal(weights_of(resumed), weights_of(plain))


def test_a_pickled_run_has_no_graphs():
    run = make_run(graphs=StepGraphs(CPU, max_graphs=7))
    run.trainer._graphs._captured["key"] = lambda: None  # cannot be pickled
    graphs = pickle.loads(pickle.dumps(run.trainer)).__dict__["_graphs"]
    assert graphs.n_graphs == 0
    assert graphs._max_graphs == 7


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "cuda_graphs needs a CUDA device, got cpu"),
        ({"compile": True}, "cuda_graphs must not be given with compile, got both"),
        ({"distributed": True}, "cuda_graphs must not be given with distributed, got both"),
    ],
)
def test_graphs_are_refused_where_they_cannot_be(kwargs, message):
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        ViTPatchSelectEnv(**TINY | {"cuda_graphs": True} | kwargs)
