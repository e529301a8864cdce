"""The bench compares two ways of doing the same: equal losses at tiny width."""

import numpy as np
import pytest
import torch

from augment.generators.patn import Patn
from augment.pose.maps import gaussians
from augment.pose.pose import Pose
from scripts import bench_train

TINY = Patn.Config(
    base_width=4,
    discriminator_width=4,
    num_blocks=2,
    pool_size=5,
    dropout=0.0,
    learning_rate=bench_train.EQUAL_RATE,
    features="vgg19-random",
    batch_size=3,
    steps=100,
)


def test_the_plain_way_has_our_losses_for_ten_steps(tiny_images, tmp_path):
    bench = bench_train.Bench(tiny_images.only("train"), tmp_path, torch.device("cpu"), 0)
    torch.manual_seed(0)
    assert bench.largest_difference(Patn(TINY), 10) <= bench_train.EQUAL_LOSSES


def test_another_loss_would_be_noticed(tiny_images, tmp_path, monkeypatch):
    bench = bench_train.Bench(tiny_images.only("train"), tmp_path, torch.device("cpu"), 0)
    torch.manual_seed(0)
    monkeypatch.setattr(
        bench_train, "_adversarial_loss", lambda logits, truth: logits.mean() * truth
    )
    with pytest.raises(SystemExit, match="the losses differ by"):
        bench.largest_difference(Patn(TINY), 1)


def test_the_heatmaps_of_the_plain_way_are_ours():
    joints = np.random.default_rng(0).uniform(0, 64, (18, 2)).astype(np.float32)
    joints[3] = np.nan
    ours = gaussians(Pose(torch.from_numpy(joints)[None]), 128, 64)[0]
    plain = torch.from_numpy(bench_train.plain_heatmaps(joints)).permute(2, 0, 1)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)
