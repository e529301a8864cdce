"""Inception Score's splits, and the refusal without weights."""

import numpy as np
import pytest
import torch

from augment.quality.inception import InceptionScore, load_inception
from manifests.runtime.console import UserError


def reference(logits: np.ndarray) -> float:
    """Return the published loop over 10 splits."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    predictions = exponentials / exponentials.sum(axis=1, keepdims=True)
    scores = []
    for i in range(10):
        part = predictions[i * len(predictions) // 10 : (i + 1) * len(predictions) // 10]
        divergence = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(divergence.sum(axis=1).mean()))
    return float(np.mean(scores))


@pytest.mark.parametrize("count", [100, 107, 13])
def test_the_streamed_score_equals_the_published_loop(count: int):
    logits = np.random.default_rng(count).normal(size=(count, 7)) * 2
    score = InceptionScore(count)
    for batch in torch.from_numpy(logits).split(9):
        score.update(batch)
    assert score.value() == pytest.approx(reference(logits), rel=1e-12)


def test_a_score_before_all_images_came_is_an_error():
    score = InceptionScore(20)
    score.update(torch.zeros(19, 4))
    with pytest.raises(ValueError, match="found 19 images, expected 20"):
        score.value()


def test_missing_weights_or_package_are_refused_with_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"torch-fidelity is not installed|give --inception FILE"):
        load_inception(None, "cpu")


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    with pytest.raises(UserError, match=r"found nothing of this name at .*nowhere\.pth"):
        load_inception(str(tmp_path / "nowhere.pth"), "cpu")
