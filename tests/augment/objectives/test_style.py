"""Content and style distances."""

from __future__ import annotations

import torch

from augment.objectives.style import CONTENT_LAYERS, STYLE_LAYERS, content, gram, style

FLOAT_NOISE = 1e-6


def _features(seed: int) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    return {
        layer: torch.rand(2, 3, 4, 5, generator=numbers) for layer in CONTENT_LAYERS + STYLE_LAYERS
    }


def test_a_gram_matrix_holds_mean_products_over_channels() -> None:
    features = _features(0)["relu1_1"]
    found = gram(features)
    for batch in range(2):
        for one in range(3):
            for other in range(3):
                products = features[batch, one] * features[batch, other]
                expected = products.sum() / (3 * 4 * 5)
                assert abs(found[batch, one, other] - expected) < FLOAT_NOISE


def test_distances_add_up_over_their_layers_only() -> None:
    left, right = _features(1), _features(2)
    expected = sum((left[layer] - right[layer]).abs().mean() for layer in CONTENT_LAYERS)
    assert abs(content(left, right) - expected) < FLOAT_NOISE
    expected = sum((gram(left[k]) - gram(right[k])).abs().mean() for k in STYLE_LAYERS)
    assert abs(style(left, right) - expected) < FLOAT_NOISE


def test_style_does_not_see_where_something_is() -> None:
    left = _features(3)
    right = {layer: value.roll((1, 2), (2, 3)) for layer, value in left.items()}
    assert style(left, right) < FLOAT_NOISE < content(left, right)


def test_gram_matrices_keep_their_digits_under_reduced_precision() -> None:
    features = _features(4)["relu1_1"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gram(features), gram(features.clone()))
        reduced = gram(features)
    assert torch.equal(reduced, gram(features))
