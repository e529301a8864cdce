"""Identity in the loss: what a frozen re-identification network says of generated images."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from augment.checkpoints import store
from augment.generators.patn import Patn
from augment.objectives.identity import SETTING, IdentityLoss
from augment.training.train import settings_for, train
from manifests import io
from manifests.compute.exported_networks import sha256_of_network
from manifests.runtime.console import Console, Exit, UserError
from tests.helpers.training import TINY, trainer


class Colours(nn.Module):
    """Mean colour of the upper and of the lower half, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        middle = images.shape[2] // 2
        upper, lower = images.split((middle, images.shape[2] - middle), dim=2)
        upper, lower = upper.mean(dim=(2, 3)), lower.mean(dim=(2, 3))
        return self.scale * torch.cat((upper, lower), dim=1)


def exported(path, size=(128, 64)):
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        Colours().eval(), (torch.zeros(2, 3, *size),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path)
    return str(path)


def images(count=3, seed=0, size=(128, 64)):
    return 2 * torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed)) - 1


def test_the_loss_is_one_minus_the_mean_cosine_and_its_gradient_reaches_the_fake_alone(tmp_path):
    loss = IdentityLoss(exported(tmp_path / "net.pt2"))
    fake, real = images(seed=1).requires_grad_(), images(seed=2).requires_grad_()
    found = loss(fake, real)
    found.backward()
    expected_fake = fake.detach().clone().requires_grad_()
    features = Colours()(expected_fake), Colours()(real.detach())
    first, second = (value / value.norm(dim=1, keepdim=True) for value in features)
    expected = (1 - (first * second).sum(dim=1)).mean()
    expected.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(fake.grad, expected_fake.grad)
    assert real.grad is None
    assert loss(fake.detach(), fake.detach()).abs() < 1e-6


def test_a_training_with_identity_has_one_term_more_and_saves_no_tensor_more(tmp_path):
    path = exported(tmp_path / "net.pt2")
    with_identity = TINY.model_copy(update={"identity": path, "weight_identity": 3.0})
    plain, other = trainer(), trainer(with_identity)
    expected, found = next(plain.steps()), next(other.steps())
    assert set(found) - set(expected) == {"reconstruction/identity"}
    pair = other.images.draw(0, 0, TINY.batch_size)
    network = trainer(with_identity).network
    torch.manual_seed(0)  # dropout moves with the seed; the loss of the same fake does not
    fake = network.run(pair, "reconstruction")["fake"]
    terms = network.losses("reconstruction", pair, {"fake": fake, "target_maps": fake})
    torch.testing.assert_close(
        terms["identity"], 3.0 * network.discriminators.identity(fake, pair.target)
    )
    assert other.network.state_dict().keys() == plain.network.state_dict().keys()
    moved = [
        name
        for name, value in plain.network.named_parameters()
        if not torch.equal(value, dict(other.network.named_parameters())[name])
    ]
    assert moved


@pytest.mark.usefixtures("tiny_images")
def test_the_weights_name_the_identity_network_without_its_folder(tiny_root, tmp_path):
    path = exported(tmp_path / "net.pt2")
    config = TINY.model_copy(update={"warmup_steps": 1, "steps": 1, "identity": path})
    out = tmp_path / "run"
    settings = settings_for([])(images=tiny_root / "images.parquet", out=out, config=config)
    assert train(settings, Console(quiet=True)) is Exit.DONE
    header = store.read_header(out / "weights.safetensors")
    assert header.config["identity"] == "net.pt2"
    assert header.facts["identity_sha256"] == io.sha256_file(Path(path))


def test_images_are_made_without_the_identity_network(tmp_path):
    config = TINY.model_copy(update={"identity": str(tmp_path / "gone.pt2")})
    header = store.Header(generator="patn", config=config.model_dump(), facts={})
    path = tmp_path / "weights.safetensors"
    store.save_weights(Patn(config).sampling_state(), path, header)
    assert isinstance(store.load(path), Patn)


def test_a_missing_or_wrong_identity_network_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--config\.identity: found nothing .*gone\.pt2"):
        sha256_of_network(str(tmp_path / "gone.pt2"), SETTING)
    with pytest.raises(UserError, match=r"--config\.identity: found nothing .*gone\.pt2"):
        IdentityLoss(str(tmp_path / "gone.pt2"))(images(), images())
    (tmp_path / "text.pt2").write_text("no program")
    with pytest.raises(UserError, match=r"text\.pt2 was not written by 'reid export'"):
        IdentityLoss(str(tmp_path / "text.pt2"))(images(), images())
    small = exported(tmp_path / "small.pt2", (64, 32))
    with pytest.raises(UserError, match=r"small\.pt2 does not take images of .*\(3, 128, 64\)"):
        IdentityLoss(small)(images(), images())


def test_the_digest_names_the_file(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"abc")
    assert sha256_of_network(str(path), SETTING) == io.sha256_file(path)
