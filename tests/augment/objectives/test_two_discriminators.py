"""The loss that PATN and XingGAN share, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from augment.generators.patn import Patn
from augment.generators.xinggan import Xinggan
from augment.interface.condition import Condition, Pair
from augment.objectives.features import load_features
from augment.pose.pose import Pose

FLOAT_NOISE = 1e-5


def _entropy(logits: torch.Tensor, truth: float) -> torch.Tensor:
    """Return the published criterion: on sigmoids, over the whole map."""
    return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, truth))


@pytest.mark.parametrize(("system", "weight"), [(Patn, 10), (Xinggan, 50)])
@torch.no_grad()
def test_the_terms_of_all_phases_follow_the_published_weights(system, weight) -> None:
    torch.manual_seed(0)
    sizes = {"base_width": 8, "num_blocks": 2, "image_height": 64, "image_width": 32}
    narrow = system.Config(discriminator_width=4, features="vgg19-random", **sizes)
    network = system(narrow).eval()
    source, target = 2 * torch.rand(2, 1, 3, 64, 32) - 1
    pair = Pair(Condition(source, *(Pose(32 * torch.rand(1, 18, 2)) for _ in range(2))), target)
    outputs = network.run(pair, "transfer")
    fake, maps = outputs["fake"], outputs["target_maps"]

    # The VGG of these two, unlike GFLA's and DPTN's, sees images of ImageNet's statistics.
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    plain = load_features("vgg19-random", ("relu1_2",), imagenet_normalised=False)
    assert plain is not None
    of_fake, of_target = (
        plain(((image + 1) / 2 - mean) / deviation)["relu1_2"] for image in (fake, target)
    )
    shape, appearance = (
        {
            name: discriminator(torch.cat([image, beside], dim=1))
            for name, image in (("fake", fake), ("real", target))
        }
        for discriminator, beside in (
            (network.discriminators.shape, maps),
            (network.discriminators.appearance, source),
        )
    )
    gan = 0.5 * 5
    expected = {
        "generator": {
            "l1": weight * (fake - target).abs().mean(),
            "perceptual": weight * (of_fake - of_target).abs().mean(),
            "fool_shape": gan * _entropy(shape["fake"], 1),
            "fool_appearance": gan * _entropy(appearance["fake"], 1),
        },
        # An empty pool gives back what it is given.
        "appearance": {
            "appearance": 0.5
            * 5
            * (_entropy(appearance["real"], 1) + _entropy(appearance["fake"], 0))
        },
        "shape": {"shape": gan * (_entropy(shape["real"], 1) + _entropy(shape["fake"], 0))},
    }
    for phase, terms in expected.items():
        found = network.losses(phase, pair, outputs)
        assert found.keys() == terms.keys()
        for name, value in terms.items():
            assert abs(found[name] - value) < FLOAT_NOISE * value, name
