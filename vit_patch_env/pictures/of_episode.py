"""The picture of an episode's last step."""

import torch
from torch import Tensor

from vit_patch_env.course import ShownStep
from vit_patch_env.data.texts import TextData
from vit_patch_env.episode import N_SHOWN, Episode
from vit_patch_env.pictures.canvas import Picture
from vit_patch_env.pictures.frame import Curve, Frame, draw_frame


def draw_episode(
    episode: Episode, grid: tuple[int, int], observation: str, span: str = "evaluate"
) -> Picture:
    """The last step of an episode, or before the first one the batch to come: see `draw_frame`.

    Its time is excluded from the training time. Nothing of the episode changes.

    Args:
        episode: running or ended.
        grid: rows and columns of patches.
        observation: the argument of the environment.
        span: of the stopwatch, an excluded one.
    """
    with episode.run.stopwatch.span(span), torch.no_grad():
        return draw_frame(frame_of(episode, grid, observation))


def frame_of(episode: Episode, grid: tuple[int, int], observation: str) -> Frame:
    """What `draw_episode` draws."""
    run, classes = episode.run, episode.data.classes
    step = episode.shown
    if step is None:
        batch = run.batch
        step = ShownStep(
            batch.images[:N_SHOWN],
            episode.patch_mask,
            labels=batch.labels[:N_SHOWN],
            values=episode.values,
        )
    items = run.stream.normalize.inverse(step.images).cpu()
    texts: list[list[str]] = []
    if isinstance(episode.data, TextData):
        texts, items = episode.data.shown(items), items.new_zeros(0, 1, 1, 1)
    labels, logits = step.labels, step.logits
    observes = not observation.startswith("none")
    return Frame(
        images=items.numpy(),
        texts=texts,
        patch_mask=step.patch_mask if step.of_each is None else step.of_each,
        grid=grid,
        truths=() if labels is None else _true_classes(labels, classes),
        predictions=() if logits is None else _predictions(logits, classes),
        right=() if logits is None or labels is None else _right(logits, labels),
        values=step.values if observes else None,
        observation=observation if observes else f"nothing ({observation})",
        title=_title(episode),
        progress=run.progress,
        curves=_curves(episode),
    )


def _title(episode: Episode) -> str:
    """The step and the epoch of its batch."""
    n_steps = episode.run.steps_done
    if not n_steps:
        return "Before the first step"
    epoch = (n_steps - 1) // episode.run.stream.batches_per_epoch + 1
    return f"Step {n_steps:,} · epoch {epoch:,}"


def _curves(episode: Episode) -> list[Curve]:
    """Patches kept, loss and reward so far."""
    course, n_patches = episode.course, len(episode.values)
    kind = "Tokens" if isinstance(episode.data, TextData) else "Patches"
    last = course.last
    points = course.points
    if last is not None and course.stride > 1:
        points = [*points, last]
    kept, loss, reward = ("-",) * 3
    if last is not None:
        kept = f"{last.n_selected:.0f} of {n_patches:,}"
        loss, reward = f"{last.loss:.4g}", f"{last.reward:.4g}"
    return [
        Curve(f"{kind} kept", kept, [one.n_selected for one in points]),
        Curve("Loss", loss, [one.loss for one in points]),
        Curve("Reward", reward, [one.reward for one in points]),
    ]


def _best(scores: Tensor) -> list[int]:
    """The class with the highest score, of each row."""
    best: list[int] = scores.argmax(dim=1).tolist()
    return best


def _predictions(logits: Tensor, classes: tuple[str, ...]) -> list[str]:
    """The predicted class of each image; a dash after a divergence."""
    finite = logits.isfinite().all(dim=1).tolist()
    return [
        classes[one] if known else "-" for one, known in zip(_best(logits), finite, strict=True)
    ]


def _true_classes(labels: Tensor, classes: tuple[str, ...]) -> list[str]:
    """The class of each image; of mixed images the one with the largest share, which is given."""
    if labels.ndim == 1:
        return [classes[one] for one in labels.tolist()]
    shares = labels.max(dim=1).values.tolist()
    return [
        classes[one] if share > 0.995 else f"{100 * share:.0f} % {classes[one]}"
        for one, share in zip(_best(labels), shares, strict=True)
    ]


def _right(logits: Tensor, labels: Tensor) -> list[bool]:
    """Whether each prediction is the class, or the largest one of a mixed image."""
    true = labels.tolist() if labels.ndim == 1 else _best(labels)
    finite = logits.isfinite().all(dim=1).tolist()
    return [
        known and one == other
        for one, other, known in zip(_best(logits), true, finite, strict=True)
    ]
