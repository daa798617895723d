"""Forward and backward pass of training steps, replayed as CUDA graphs."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vit_patch_env.checks import InputWarning, counted, named
from vit_patch_env.system.shown import escaped

WARM_UP_STEPS = 3
"""Steps of each kind that are computed as usual before one is captured, as torch advises."""

MAX_GRAPHS = 64
"""Graphs that are kept: one for each number of patches of the paper's 64."""

MAX_KINDS = 512
"""Kinds of steps after which no more are captured: a rate may be another one in each step."""


class Inputs(NamedTuple):
    """What a pass computes on.

    Attributes:
        images: normalised, (batch, channels, height, width).
        labels: classes (batch,) int64, or probabilities (batch, n_classes).
        keep: int64 indices of the patches, (n_keep,) or (batch, n_keep); None for all.
    """

    images: Tensor
    labels: Tensor
    keep: Tensor | None


class Outputs(NamedTuple):
    """What a pass returns, without gradients.

    Attributes:
        loss: 0-d float32.
        logits: (batch, n_classes).
    """

    loss: Tensor
    logits: Tensor


Pass = Callable[[Inputs], Outputs]
"""A forward and backward pass, which adds the gradients to those of the weights."""

Replay = Callable[[], Outputs]
"""Computes a captured pass again, on what its inputs hold now; its outputs are always the same."""


class Capturing(Protocol):
    """How passes are captured; tests on a CPU have one of their own."""

    def warm_up(self, compute: Replay) -> Outputs:
        """Compute a pass as usual, but where it will be captured."""

    def capture(self, compute: Replay, generators: Sequence[torch.Generator]) -> Replay:
        """Capture a pass, which is not computed.

        Args:
            compute: the pass.
            generators: that it draws from, besides torch's own of the device.

        Raises:
            Exception: of any type, if it cannot be captured.
        """


class CudaCapturing:
    """Captures passes as CUDA graphs, which share their memory.

    They may share it, as no two of them run at once, and as nothing of one is read after another
    has begun: `StepGraphs` copies the outputs, and gradients are outside of it.

    Args:
        device: of the passes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, compute: Replay) -> Outputs:
        """Compute a pass on the stream that captures."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                outputs = compute()
            current.wait_stream(self._stream)
        return outputs

    def capture(self, compute: Replay, generators: Sequence[torch.Generator]) -> Replay:
        """Capture a pass.

        Other threads may meanwhile do what a graph cannot contain, such as pinning memory.
        """
        with torch.cuda.device(self._device):
            graph = torch.cuda.CUDAGraph()
            for generator in generators:
                graph.register_generator_state(generator)
            try:
                # The outer block: after an error torch stays on the stream that captures.
                with (
                    torch.cuda.stream(torch.cuda.current_stream()),
                    torch.cuda.graph(
                        graph,
                        pool=self._pool,
                        stream=self._stream,
                        capture_error_mode="thread_local",
                    ),
                ):
                    outputs = compute()
            except BaseException:
                self._end_failed(graph, generators)
                raise

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay

    def _end_failed(
        self, graph: torch.cuda.CUDAGraph, generators: Sequence[torch.Generator]
    ) -> None:
        """End what torch leaves open after an error: all of the process would fail because of it.

        When CUDA reports that a capture is invalid, torch 2.11 and 2.12 end it neither for their
        allocator (https://github.com/pytorch/pytorch/issues/180395), which then refuses to free
        memory or to capture, nor for the random generators, which refuse to draw numbers.
        """
        device = torch.cuda.current_device()
        try:
            torch._C._cuda_endAllocateToPool(device, self._pool)
        except RuntimeError:
            pass  # torch has ended it
        else:
            torch._C._cuda_releasePool(device, self._pool)  # as only a captured graph does
            _UNENDED.append(graph)
        drawn = [torch.cuda.default_generators[device], *generators]
        if not all(_draws(one) for one in drawn):
            self._capture_nothing(drawn)

    def _capture_nothing(self, generators: Sequence[torch.Generator]) -> None:
        """A capture that succeeds, as its end is the end of captures for its generators, too.

        New states for them would do as well, but graphs keep the state that they were captured
        with: those of other models in this process could no longer be replayed.
        """
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            torch.zeros((), dtype=torch.float32, device=self._device)  # torch warns of empty graphs


_UNENDED: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture failed, kept: torch's allocator of pinned memory may still ask for them."""


def _draws(generator: torch.Generator) -> bool:
    """Whether a CUDA generator draws numbers, outside of a capture; its state does not change."""
    state = generator.get_state()
    try:
        torch.empty(1, dtype=torch.float32, device=generator.device).uniform_(generator=generator)
    except RuntimeError:
        return False
    generator.set_state(state)
    return True


class _Captured(NamedTuple):
    replay: Replay
    inputs: Inputs
    used: tuple[int, ...]


class StepGraphs:
    """Captures and replays the passes of a model's training steps.

    There is a graph for each shape of images, labels and selection, and for each rate, which is
    captured after `WARM_UP_STEPS` steps of that kind. A graph reads and writes the same memory each
    time: inputs are copied there, and gradients are added up in tensors that are kept for them.
    Steps of further kinds are computed as usual when `max_graphs` are kept. When one cannot be
    captured, all graphs are dropped and all further steps are computed as usual, after one warning.
    There is also one when more than `MAX_KINDS` kinds have been seen; graphs are then kept, but no
    more are captured.

    Python code of the model and the loss does not run in a replay: what it decided, counted or drew
    in the capture stays as it was then.

    Copies and pickles have no graphs: they capture their own.

    Args:
        device: of the model.
        max_graphs: that are kept.
        capturing: makes what captures; by default CUDA graphs.
        data_dependent: whether the shapes within the model depend on the images, so that nothing
            can be captured.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        max_graphs: int = MAX_GRAPHS,
        capturing: Callable[[torch.device], Capturing] = CudaCapturing,
        data_dependent: bool = False,
    ) -> None:
        self._device = device
        self._max_graphs = max_graphs
        self._make_capturing = capturing
        self._data_dependent = data_dependent
        self._stopped = False
        self.clear()

    def clear(self) -> None:
        """Drop all graphs, as what they read, or write to, is no longer in use."""
        self._capturing: Capturing | None = None
        self._captured: dict[Hashable, _Captured] = {}
        self._warmed_up: Counter[Hashable] = Counter()
        self._used: dict[Hashable, tuple[int, ...]] = {}
        self._static: dict[Hashable, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}

    @property
    def n_graphs(self) -> int:
        """Graphs that are kept."""
        return len(self._captured)

    def run(
        self,
        compute: Pass,
        inputs: Inputs,
        rate: float | None,
        weights: Sequence[Tensor],
        generators: Sequence[torch.Generator] = (),
    ) -> Outputs:
        """Compute a pass, by its graph if there is one.

        Args:
            compute: the pass at this rate, always of the same model.
            inputs: of this step.
            rate: the model's share of tokens; None for a model without one.
            weights: all that may get a gradient, always in the same order.
            generators: on the device, that the model draws from besides torch's own.
        """
        key = (*(None if one is None else (one.shape, one.dtype) for one in inputs), rate)
        captured = self._captured.get(key)
        if captured is None:
            if not self._may_capture(key):
                return compute(inputs)
            if self._warmed_up[key] < WARM_UP_STEPS:
                return self._warm_up(key, compute, inputs, weights)
            captured = self._capture(key, compute, inputs, weights, generators)
            if captured is None:
                return compute(inputs)
        for place, value in zip(captured.inputs, inputs, strict=True):
            if place is not None and value is not None:
                place.copy_(value)
        self._bind_gradients(captured.used, weights)
        loss, logits = captured.replay()
        return Outputs(loss.clone(), logits.clone())  # the next replay overwrites them

    def _may_capture(self, key: Hashable) -> bool:
        """Whether steps of a kind are to be captured."""
        if self._stopped:
            return False
        if self._data_dependent:
            self._stop("the model's shapes depend on the images")
            return False
        if self.n_graphs >= self._max_graphs:
            return False
        if key not in self._warmed_up and len(self._warmed_up) >= MAX_KINDS:
            self._stop_capturing(
                f"more than {MAX_KINDS} kinds of shapes and rates; "
                f"{counted(self.n_graphs, 'graph')} captured before will be replayed"
            )
            return False
        return True

    def _warm_up(
        self, key: Hashable, compute: Pass, inputs: Inputs, weights: Sequence[Tensor]
    ) -> Outputs:
        """Compute a pass as usual, and note which weights get a gradient in it."""
        self._warmed_up[key] += 1
        if self._capturing is None:
            self._capturing = self._make_capturing(self._device)
        waiting = _taken_gradients(weights)  # of batches before, if they accumulate
        outputs = self._capturing.warm_up(lambda: compute(inputs))
        used = tuple(i for i, one in enumerate(weights) if one.grad is not None)
        for weight, before in zip(weights, waiting, strict=True):
            if before is not None:
                weight.grad = before if weight.grad is None else before.add_(weight.grad)
        if self._used.setdefault(key, used) != used:
            self._stop(_OTHER_WEIGHTS)
        return outputs

    def _capture(
        self,
        key: Hashable,
        compute: Pass,
        inputs: Inputs,
        weights: Sequence[Tensor],
        generators: Sequence[torch.Generator],
    ) -> _Captured | None:
        """Capture a pass; None if that is not possible."""
        assert self._capturing is not None  # since the warm-up
        outside = sys.exception()  # the caller may be handling one
        static = Inputs(
            self._place("images", inputs.images),
            self._place("labels", inputs.labels),
            None if inputs.keep is None else self._place("keep", inputs.keep),
        )
        used = self._used[key]
        self._bind_gradients(used, weights)
        unused = [weight for i, weight in enumerate(weights) if i not in used]
        waiting = _taken_gradients(unused)
        try:
            replay = self._capturing.capture(lambda: compute(static), generators)
            reason = "" if all(one.grad is None for one in unused) else _OTHER_WEIGHTS
        except Exception as error:  # a model may raise anything
            reason = _reason(error, outside)
        finally:
            for weight, before in zip(unused, waiting, strict=True):
                weight.grad = before  # one of the capture would never be written again
        if reason:
            self._stop(reason)
            return None
        self._captured[key] = _Captured(replay, static, used)
        return self._captured[key]

    def _place(self, name: str, value: Tensor) -> Tensor:
        """Where graphs read inputs of this name and shape, which holds the value now."""
        key = (name, value.shape, value.dtype)
        if key not in self._static:
            self._static[key] = torch.empty_like(value)
        return self._static[key].copy_(value)

    def _bind_gradients(self, used: Sequence[int], weights: Sequence[Tensor]) -> None:
        """Give weights the gradients that graphs add to, with the values that they have now."""
        fresh = []
        for index in used:
            weight = weights[index]
            if index not in self._gradients:
                self._gradients[index] = torch.empty_like(weight, requires_grad=False)
            gradient = self._gradients[index]
            if weight.grad is None:
                fresh.append(gradient)
            elif weight.grad is not gradient:
                gradient.copy_(weight.grad)
            weight.grad = gradient
        if fresh:
            torch._foreach_zero_(fresh)

    def _stop(self, reason: str) -> None:
        """Drop all graphs and capture no more.

        After a failed capture the graphs before are not relied on: what made it fail may be
        missing in them.
        """
        n_dropped = self.n_graphs
        self.clear()
        dropped = f"; {counted(n_dropped, 'graph')} captured before will not be replayed"
        self._stop_capturing(f"{reason}{dropped if n_dropped else ''}")

    def _stop_capturing(self, reason: str) -> None:
        """Capture no more graphs."""
        self._stopped = True
        warnings.warn(
            InputWarning(f"training steps are computed without {named('cuda_graphs')}: {reason}"),
            stacklevel=5,
        )

    def __getstate__(self) -> dict[str, Any]:
        """The settings, and whether capturing has ended."""
        names = ("_device", "_max_graphs", "_make_capturing", "_data_dependent", "_stopped")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.clear()


def graphs_for(model: nn.Module, device: torch.device) -> StepGraphs:
    """What captures the training steps of a model on a CUDA device."""
    return StepGraphs(device, data_dependent=bool(getattr(model, "data_dependent", False)))


_OTHER_WEIGHTS = "steps of one kind give gradients to different weights"


def _taken_gradients(weights: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of weights, which have none afterwards."""
    gradients = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    return gradients


def _reason(error: BaseException, outside: BaseException | None) -> str:
    """The first line of the error that ended a capture, which may have caused others.

    Args:
        error: the last one.
        outside: the one that was being handled when the capture began, if any.
    """
    while (cause := error.__context__) is not None and cause is not outside:
        error = cause
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {escaped(lines[0])}" if lines else type(error).__name__
