"""Networks made ready for sampling."""

import importlib.util
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from augment.generation.sampler import (
    COMPILE_MIN_ROWS,
    Convolution,
    Sampler,
    fold_batch_norms,
    prepare_for_sampling,
    repays_compiling,
    sampling_mode,
)
from augment.generators.patn import Patn
from augment.generators.xinggan import XingBlock, Xinggan
from augment.interface.condition import Condition
from augment.interface.randomness import RowRandom
from augment.interface.system import NoOptions
from augment.pose.pose import Pose
from manifests.runtime.settings import Frozen
from tests.helpers import trivial
from tests.helpers.sampling import generated

FOLDING_TOLERANCE = 1e-6
"""Folding only reorders a multiplication: 1e-5 for images in [-1, 1]; these span a tenth."""

COMPILED_TOLERANCE = 1e-5
"""Fused kernels add in another order; images span [-1, 1]."""


def trained(network):
    """Give batch norms statistics, and attention a say, as if they had been trained."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, XingBlock):
            module.strength.data.fill_(0.5)
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.2, 0.2),
            ):
                tensor.uniform_(low, high, generator=generator)
    return network


def small(system):
    torch.manual_seed(0)
    config = system.Config(base_width=8, num_blocks=2, discriminator_width=4, features="none")
    return trained(system(config)).eval()


def random_of(batch):
    return RowRandom.numbered(len(batch.image), batch.image.device)


@pytest.fixture
def patn():
    return small(Patn)


@pytest.fixture(params=[Patn, Xinggan])
def normed(request):
    """Give each system with batch norms."""
    return small(request.param)


@pytest.fixture
def condition():
    generator = torch.Generator().manual_seed(1)
    joints = 64 * torch.rand(4, 18, 2, generator=generator)
    image = 2 * torch.rand(2, 3, 128, 64, generator=generator) - 1
    return Condition(image, Pose(joints[:2]), Pose(joints[2:]))


def test_a_prepared_network_makes_the_same_images(normed, condition):
    with torch.inference_mode():
        before = generated(normed, condition)
        after = generated(prepare_for_sampling(normed, "float32"), condition)

    assert before.std() > 0.01
    assert (after - before).abs().max() <= FOLDING_TOLERANCE


def test_every_batch_norm_behind_a_convolution_is_folded(normed):
    expected = sum(isinstance(module, nn.BatchNorm2d) for module in normed.modules())

    assert fold_batch_norms(normed) == expected
    assert not any(isinstance(module, nn.BatchNorm2d) for module in normed.modules())


def test_the_weights_of_a_prepared_network_have_their_channels_innermost(patn):
    def weights():
        return [layer.weight for layer in patn.modules() if isinstance(layer, Convolution)]

    assert not any(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights())

    prepare_for_sampling(patn, "float32")

    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights())


def test_names_and_places_of_layers_stay(patn):
    names = [name for name, _ in patn.named_modules()]

    fold_batch_norms(patn)

    assert [name for name, _ in patn.named_modules()] == names


def test_batch_norms_behind_something_else_stay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()

    assert fold_batch_norms(network) == 0
    assert isinstance(network[2], nn.BatchNorm2d)


def test_batch_norms_that_use_the_batch_stay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))

    assert fold_batch_norms(network.eval()) == 0


def test_bf16_rounds_convolutions_and_leaves_the_rest(patn):
    prepared = prepare_for_sampling(patn, "bf16")

    kinds = {
        type(module).__name__: parameter.dtype
        for module in prepared.modules()
        for parameter in module.parameters(recurse=False)
    }
    assert set(kinds.values()) == {torch.bfloat16}
    assert set(kinds) >= {"Conv2d", "ConvTranspose2d"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_makes_the_same_images(patn, condition):
    network = prepare_for_sampling(patn, "float32")
    cpu = torch.device("cpu")
    other = Condition(-condition.image, condition.target_pose, condition.pose)

    compiled = Sampler(network, cpu, NoOptions(), compiled=True).generator()

    with sampling_mode(cpu, "float32"):
        for batch in (condition, other):
            plain = generated(network, batch)
            assert plain.std() > 0.01
            assert (
                compiled(batch, RowRandom.numbered(len(batch.image), batch.image.device)) - plain
            ).abs().max() <= COMPILED_TOLERANCE


class Scaled(trivial.Trivial):
    """Noise of a chosen scale on the source."""

    class Options(Frozen):
        scale: float = 1.0

    def generate(self, condition, random, options):
        first, second = random.normal(3, 1, 1), random.uniform(3, 1, 1)
        return condition.image / 2 + options.scale * (first / 8 + second / 8)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_draws_the_numbers_of_its_rows_and_follows_its_options(condition):
    cpu = torch.device("cpu")
    options = Scaled.Options(scale=0.5)
    compiled = Sampler(Scaled(), cpu, options, compiled=True).generator()

    with sampling_mode(cpu, "float32"):
        for seeds in ([4, 9], [9, 2**64 - 1]):
            one, other = (RowRandom(np.array(seeds, np.uint64), cpu) for _ in range(2))
            plain = Scaled().generate(condition, one, options)
            assert (compiled(condition, other) - plain).abs().max() <= COMPILED_TOLERANCE


def test_compiling_is_never_chosen_on_a_cpu():
    assert not repays_compiling(torch.device("cpu"), 10**12)


def test_compiling_is_chosen_on_a_gpu_from_five_million_images_of_a_worker_on(monkeypatch):
    # Which packages are here does not matter.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    assert COMPILE_MIN_ROWS == 5_000_000
    assert not repays_compiling(torch.device("cuda"), COMPILE_MIN_ROWS - 1)
    assert repays_compiling(torch.device("cuda"), COMPILE_MIN_ROWS)


def test_compiling_is_never_chosen_without_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert not repays_compiling(torch.device("cuda"), 10**12)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*TensorFloat32")
def test_a_compiled_network_makes_the_same_images_on_a_gpu(patn, condition):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cuda = torch.device("cuda")
    network = prepare_for_sampling(patn.to(cuda), "float32")
    batches = [
        Condition(image.to(cuda), condition.pose.to(cuda), condition.target_pose.to(cuda))
        for image in (condition.image, -condition.image, condition.image)
    ]

    compiled = Sampler(network, cuda, NoOptions(), compiled=True).generator()

    with sampling_mode(cuda, "float32"):
        # Each is read before the next: a replayed graph writes to the same memory.
        made = [compiled(batch, random_of(batch)).clone() for batch in batches]
        plain = [generated(network, batch) for batch in batches]
    # Convolutions may take TF32 or other algorithms: ten bits of 1.
    assert max((a - b).abs().max() for a, b in zip(made, plain, strict=True)) <= 1e-3
    assert torch.equal(made[0], made[2])
