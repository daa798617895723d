"""Figures that follow from a classifier's scores, compared with scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    confusion_matrix as sklearn_matrix,
)
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

from vit_patch_env.training.predictions import (
    Predictions,
    calibration_error,
    class_figures,
    confusion_matrix,
    confusions,
    predictions,
    top_accuracy,
    worst_mistakes,
)


def scored(n, n_classes, n_present, seed=0):
    """Scores and labels of the first classes, on which an item of the class scores higher."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_present, n)
    scores = rng.normal(size=(n, n_classes)).astype(np.float32)
    scores[np.arange(n), labels] += 1
    return torch.from_numpy(scores), torch.from_numpy(labels)


def made(labels, predicted, probability, n_classes):
    labels, predicted = np.array(labels), np.array(predicted)
    return Predictions(
        labels, predicted, np.array(probability, np.float32), labels == predicted, n_classes
    )


@pytest.mark.parametrize(("n", "n_classes", "n_present"), [(200, 2, 2), (300, 12, 9), (1, 11, 1)])
def test_figures_are_those_of_scikit_learn(n, n_classes, n_present):
    scores, labels = scored(n, n_classes, n_present)
    found = predictions(scores, labels)
    truth, predicted = labels.numpy(), scores.argmax(dim=1).numpy()
    assert (found.predicted == predicted).all()
    expected = scores.softmax(dim=1).max(dim=1).values.numpy()
    np.testing.assert_allclose(found.probability, expected, rtol=1e-5)
    every = np.arange(n_classes)
    ours = class_figures(found)
    *theirs, n_items = precision_recall_fscore_support(
        truth, predicted, labels=every, zero_division=0
    )
    assert (ours.n_items == n_items).all()
    for own, other in zip((ours.precision, ours.recall, ours.f1), theirs, strict=True):
        np.testing.assert_allclose(own[n_items > 0], other[n_items > 0])
        assert np.isnan(own[n_items == 0]).all()
    matrix = sklearn_matrix(truth, predicted, labels=every)
    assert (confusion_matrix(found, every) == matrix).all()
    assert (confusion_matrix(found, every[1:3]) == matrix[1:3, 1:3]).all()
    if n_classes > 10:
        top = top_k_accuracy_score(truth, scores.numpy(), k=5, labels=every)
        assert top_accuracy(found) == pytest.approx(top)
    else:
        assert top_accuracy(found) is None


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy():
    #           in (0, 1/15]  in (13/15, 14/15]: 0.9, 0.92    in (14/15, 1]
    found = made([0, 0, 0, 0], [1, 0, 1, 0], [1 / 15, 0.9, 0.92, 1.0], 2)
    gaps = [1 / 15, abs((0.9 + 0.92) - 1), 0]
    assert calibration_error(found) == pytest.approx(sum(gaps) / 4)
    sure = made([1] * 5, [1] * 5, [1.0] * 5, 2)
    assert calibration_error(sure) == 0


def test_scores_that_are_not_finite_have_no_probability():
    scores, labels = scored(50, 12, 12)
    scores[:20] = torch.nan
    scores[20, 3] = torch.inf
    found = predictions(scores, labels)
    assert np.isnan(found.probability[:21]).all()
    assert np.isfinite(found.probability[21:]).all()
    assert (found.in_top[:21] == (found.predicted == found.labels)[:21]).all()
    assert np.isnan(calibration_error(found))
    worst = worst_mistakes(found, 100)
    shown = found.probability[worst]
    n_known = int(np.isfinite(shown).sum())
    assert 0 < n_known < len(worst)
    assert np.isfinite(shown[:n_known]).all()  # before those without one


def test_the_worst_mistakes_have_the_highest_probability():
    found = made([0, 0, 1, 2, 2], [0, 1, 0, 2, 0], [0.9, 0.5, 0.8, 0.4, 0.8], 3)
    assert worst_mistakes(found, 2).tolist() == [2, 4]
    assert worst_mistakes(found, 25).tolist() == [2, 4, 1]


def test_confused_classes_come_by_frequency():
    found = made([0, 0, 1, 2, 2, 2], [1, 1, 0, 2, 1, 0], [0.5] * 6, 3)
    assert confusions(found) == [(0, 1, 2), (1, 0, 1), (2, 0, 1), (2, 1, 1)]
