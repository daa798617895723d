"""What a classifier predicts for the items of a split, and the figures that follow from it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

N_BINS = 15
"""Of confidence, in the expected calibration error."""

TOP = 5
"""Classes among which the true one is looked for where there are more than `MANY_CLASSES`."""

MANY_CLASSES = 10

LARGEST_MATRIX = 200
"""Classes of the largest confusion matrix: one of all 21,841 of ImageNet would need 4 GB."""


class Predictions(NamedTuple):
    """Predictions for the items of a split, in its order, on the CPU.

    Attributes:
        labels: true classes, (n,) int64.
        predicted: classes of the highest score, (n,) int64.
        probability: of these, in [0, 1], (n,) float32; NaN where scores are not finite.
        in_top: whether the true class is among the `TOP` of the highest scores, (n,) bool.
        n_classes: that the classifier has scores of.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float32]
    in_top: NDArray[np.bool_]
    n_classes: int


class ClassFigures(NamedTuple):
    """Figures of each class, (n_classes,); NaN for a class without items.

    Attributes:
        precision: as scikit-learn's: 0 for a class that is never predicted.
        recall: share of its items that are predicted as it.
        f1: harmonic mean of both.
        n_items: of the class, int64.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    n_items: NDArray[np.int64]


class Confusion(NamedTuple):
    """Items of one class that were predicted as another.

    Attributes:
        label: the true class.
        predicted: the other one.
        n_items: of them.
    """

    label: int
    predicted: int
    n_items: int


def predictions(scores: Tensor, labels: Tensor) -> Predictions:
    """Predictions from the scores of all items.

    Args:
        scores: logits, (n, n_classes) float32.
        labels: true classes, (n,) int64.
    """
    n_classes = scores.shape[1]
    predicted = scores.argmax(dim=1)
    probability = scores.gather(1, predicted[:, None]).squeeze(1)
    probability = (probability - scores.logsumexp(dim=1)).exp()
    right = predicted == labels
    if n_classes > TOP:
        # A rank has a value only among finite scores; argmax decides where there are others.
        among = (scores.topk(TOP, dim=1).indices == labels[:, None]).any(dim=1)
        in_top = right | (among & probability.isfinite())
    else:
        in_top = right | probability.isfinite()
    host = [one.cpu().numpy() for one in (labels, predicted, probability, in_top)]
    return Predictions(host[0], host[1], host[2], host[3], n_classes)


def class_figures(found: Predictions) -> ClassFigures:
    """Precision, recall, F1 and number of items of each class."""
    n_items, n_predicted, n_right = (
        np.bincount(classes, minlength=found.n_classes)
        for classes in (
            found.labels, found.predicted, found.labels[found.labels == found.predicted],
        )
    )  # fmt: skip
    exists = n_items > 0
    return ClassFigures(
        precision=np.where(exists, n_right / np.maximum(n_predicted, 1), np.nan),
        recall=np.where(exists, n_right / np.maximum(n_items, 1), np.nan),
        f1=np.where(exists, 2 * n_right / np.maximum(n_items + n_predicted, 1), np.nan),
        n_items=n_items,
    )


def confusion_matrix(found: Predictions, classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Items of each class (rows) by the class that is predicted for them (columns).

    Args:
        found: the predictions.
        classes: of the rows and of the columns, in ascending order. Others are left out.
    """
    n = len(classes)
    place = np.full(found.n_classes, n)
    place[classes] = np.arange(n)
    counts = np.bincount(
        place[found.labels] * (n + 1) + place[found.predicted], minlength=(n + 1) ** 2
    )
    return counts.reshape(n + 1, n + 1)[:n, :n]


def confusions(found: Predictions) -> list[Confusion]:
    """The pairs of classes that are confused, the most frequent ones first."""
    wrong = found.labels != found.predicted
    pairs = found.labels[wrong] * found.n_classes + found.predicted[wrong]
    pairs, counts = np.unique(pairs, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        Confusion(pair // found.n_classes, pair % found.n_classes, count)
        for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]


def top_accuracy(found: Predictions) -> float | None:
    """Share of items whose class is among the `TOP` predicted; None for few classes."""
    return float(found.in_top.mean()) if found.n_classes > MANY_CLASSES else None


def calibration_error(found: Predictions) -> float:
    """Expected calibration error in `N_BINS` equal bins of confidence (Naeini et al., 2015).

    It is the mean distance between confidence and accuracy, of bins weighted by their items; in
    [0, 1], and NaN if a probability is.
    """
    if not np.isfinite(found.probability).all():
        return float("nan")
    # A bin includes its upper end, as in Guo et al. (2017).
    bins = np.clip(np.ceil(found.probability.astype(np.float64) * N_BINS) - 1, 0, N_BINS - 1)
    gaps = (found.labels == found.predicted) - found.probability.astype(np.float64)
    sums = np.bincount(bins.astype(np.int64), weights=gaps, minlength=N_BINS)
    return float(np.abs(sums).sum() / len(gaps))


def worst_mistakes(found: Predictions, n: int) -> NDArray[np.int64]:
    """Indices of the `n` mistakes with the highest probability; those without one come last."""
    wrong = np.flatnonzero(found.labels != found.predicted)
    probability = np.nan_to_num(found.probability[wrong], nan=-1.0)
    return wrong[np.argsort(-probability, kind="stable")[:n]]
