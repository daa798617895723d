"""Forward and backward pass of training steps, replayed as CUDA graphs."""

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

_MAX_COUNTED = 1024
"""Kinds of steps whose warm-up is counted; a model's rate may be another one in each step."""


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

    def capture(self, compute: Replay) -> Replay:
        """Capture a pass, which is not computed.

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

    def capture(self, compute: Replay) -> Replay:
        """Capture a pass.

        Other threads may meanwhile do what a graph cannot contain, such as pinning memory.
        """
        with torch.cuda.device(self._device):
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            before = generator.clone_state()
            graph = torch.cuda.CUDAGraph()
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
                # Otherwise it would remain that of a capture, and refuse to draw numbers.
                generator.graphsafe_set_state(before)
                raise

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay


class _Captured(NamedTuple):
    replay: Replay
    inputs: Inputs
    used: tuple[int, ...]


class StepGraphs:
    """Captures and replays the passes of a model's training steps.

    There is a graph for each shape of images, labels and selection, and for each rate, which is
    captured after `WARM_UP_STEPS` steps of that kind. A graph reads and writes the same memory each
    time: inputs are copied there, and gradients are added up in tensors that are kept for them.
    Steps of further kinds are computed as usual when `max_graphs` are kept, and all others from the
    moment when one cannot be captured, with one warning.

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
        self, compute: Pass, inputs: Inputs, rate: float | None, weights: Sequence[Tensor]
    ) -> Outputs:
        """Compute a pass, by its graph if there is one.

        Args:
            compute: the pass at this rate, always of the same model.
            inputs: of this step.
            rate: the model's share of tokens; None for a model without one.
            weights: all that may get a gradient, always in the same order.
        """
        key = (*(None if one is None else (one.shape, one.dtype) for one in inputs), rate)
        if key not in self._captured:
            if self._data_dependent and not self._stopped:
                self._stop("the model's shapes depend on the images")
            if self._stopped or self.n_graphs >= self._max_graphs:
                return compute(inputs)
            if self._warmed_up[key] < WARM_UP_STEPS:
                return self._warm_up(key, compute, inputs, weights)
            if not self._capture(key, compute, inputs, weights):
                return compute(inputs)
        captured = self._captured[key]
        for place, value in zip(captured.inputs, inputs, strict=True):
            if place is not None and value is not None:
                place.copy_(value)
        self._bind_gradients(captured.used, weights)
        loss, logits = captured.replay()
        return Outputs(loss.clone(), logits.clone())  # the next replay overwrites them

    def _warm_up(
        self, key: Hashable, compute: Pass, inputs: Inputs, weights: Sequence[Tensor]
    ) -> Outputs:
        """Compute a pass as usual, and note which weights get a gradient in it."""
        if len(self._warmed_up) >= _MAX_COUNTED:
            self._warmed_up.clear()
        self._warmed_up[key] += 1
        if self._capturing is None:
            self._capturing = self._make_capturing(self._device)
        waiting = [weight.grad for weight in weights]  # of batches before, if they accumulate
        for weight in weights:
            weight.grad = None
        outputs = self._capturing.warm_up(lambda: compute(inputs))
        self._used[key] = tuple(i for i, one in enumerate(weights) if one.grad is not None)
        for weight, before in zip(weights, waiting, strict=True):
            if before is not None:
                weight.grad = before if weight.grad is None else before.add_(weight.grad)
        return outputs

    def _capture(
        self, key: Hashable, compute: Pass, inputs: Inputs, weights: Sequence[Tensor]
    ) -> bool:
        """Capture a pass; whether that was possible."""
        assert self._capturing is not None  # since the warm-up
        static = Inputs(
            self._place("images", inputs.images),
            self._place("labels", inputs.labels),
            None if inputs.keep is None else self._place("keep", inputs.keep),
        )
        used = self._used[key]
        self._bind_gradients(used, weights)
        try:
            replay = self._capturing.capture(lambda: compute(static))
        except Exception as error:  # a model may raise anything
            self._stop(_reason(error))
            return False
        self._captured[key] = _Captured(replay, static, used)
        return True

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
        """Capture no more graphs."""
        self._stopped = True
        kept = f"; {counted(self.n_graphs, 'graph')} captured before will be replayed"
        warnings.warn(
            InputWarning(
                f"training steps are computed without {named('cuda_graphs')}: {reason}"
                f"{kept if self.n_graphs else ''}"
            ),
            stacklevel=4,
        )

    def __getstate__(self) -> dict[str, Any]:
        """The settings, and whether capturing has failed."""
        names = ("_device", "_max_graphs", "_make_capturing", "_data_dependent", "_stopped")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.clear()


def graphs_for(model: nn.Module, device: torch.device) -> StepGraphs:
    """What captures the training steps of a model on a CUDA device."""
    return StepGraphs(device, data_dependent=bool(getattr(model, "data_dependent", False)))


def _reason(error: BaseException) -> str:
    """The first line of the error that ended a capture, which may have caused others."""
    while error.__context__ is not None:
        error = error.__context__
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {escaped(lines[0])}" if lines else type(error).__name__
