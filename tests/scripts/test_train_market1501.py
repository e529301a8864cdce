"""scripts/train_market1501 on a tiny data set: pieces, the move to another disk, the card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from augment.checkpoints import store
from augment.generators import names, system
from scripts import training_card

ROOT = Path(__file__).resolve().parents[2]

TINY = [
    "--config.base-width", "4", "--config.discriminator-width", "4", "--config.num-blocks", "1",
    "--config.pool-size", "2", "--config.features", "none", "--config.batch-size", "2",
    "--config.steps", "2", "--device", "cpu",
]  # fmt: skip


@pytest.fixture
def piece(tiny_images, tiny_root, tmp_path):
    """Return the script, called for one piece of a tiny training."""
    annotation = (tiny_root / "keypoints.csv").read_text()
    seen, again = "0001_c2s1_009001_01.jpg", "0001_c3s1_009002_01.jpg"
    folder = tiny_root / "bounding_box_test"
    (folder / again).write_bytes((folder / seen).read_bytes())
    (line,) = (line for line in annotation.splitlines() if line.startswith(seen))
    annotation = f"{annotation.rstrip()}\n{line.replace(seen, again)}\n"
    (tiny_root / "market-annotation-train.csv").write_text(annotation)
    (tiny_root / "market-annotation-test.csv").write_text(annotation.splitlines()[0] + "\n")
    (tiny_root / "market-pairs-test.csv").write_text(f"from,to\n{seen},{again}\n")

    def piece(out, *arguments):
        return subprocess.run(
            [ROOT / "scripts" / "train_market1501", "--market", tiny_root, "--keypoints", tiny_root,
             "--generator", "xinggan", "--out", tmp_path / out, *arguments, "--", *TINY],
            check=False, capture_output=True, text=True,
        )  # fmt: skip

    return piece


@pytest.mark.slow
def test_a_second_piece_goes_on_from_the_state_of_the_first(piece, tmp_path):
    first = piece("pieces", "--minutes", "0")
    assert first.returncode == 75, first.stderr
    # Scored already: this is about the training.
    for name in ("evaluation.json", "evaluation.md"):
        (tmp_path / "pieces" / name).write_text("")
    second = piece("pieces")
    assert second.returncode == 0, second.stderr
    assert "goes on from step 1" in second.stderr

    images = str(tmp_path / "pieces" / "images.parquet")
    straight = [sys.executable, "-m", "augment.cli", "train", "--generator", "xinggan", *TINY]
    subprocess.run(
        [*straight, "--images", images, "--out", tmp_path / "straight"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True,
    )  # fmt: skip
    for name in ("state.pt", "weights.safetensors"):
        found = (tmp_path / "pieces" / "run" / name).read_bytes()
        assert found == (tmp_path / "straight" / name).read_bytes(), name
    card = (tmp_path / "pieces" / "card.md").read_text()
    assert "| continued | never from weights alone |" in card


@pytest.mark.slow
def test_weights_moved_to_another_disk_end_in_scored_weights_and_a_card_that_says_so(
    piece, tmp_path
):
    first = piece("here", "--minutes", "0")
    assert first.returncode == 75, first.stderr
    left = tmp_path / "here" / "run" / "weights.safetensors"
    assert store.read_header(left).facts["steps"] == 1
    assert not (tmp_path / "here" / "card.md").exists()
    second = piece("there", "--init", left)
    assert second.returncode == 0, second.stderr
    out = tmp_path / "there"
    header = store.read_header(out / "run" / "weights.safetensors")
    assert (header.generator, header.facts["steps"]) == ("xinggan", 2)
    card = (out / "card.md").read_text()
    assert "| continued | from weights alone at step 1 (sha256 " in card
    assert "optimisers, discriminators and pools were restarted there" in card
    assert "| SSIM | " in card
    assert json.loads((out / "evaluation.json").read_text())["num_pairs"] == 1


@pytest.mark.parametrize("name", names())
def test_the_card_has_every_setting_of_the_system(name, tmp_path):
    config = {
        key: value for key, value in system(name).Config().model_dump().items() if value is not None
    }
    facts = dict.fromkeys(
        ("train_images", "train_people", "train_pairs", "steps", "images_seen", "seed"), 7
    )
    header = store.Header(generator=name, config=config, facts=facts)
    store.save_weights({}, tmp_path / "w.safetensors", header)
    card = training_card.card(tmp_path / "w.safetensors", "")
    for key, value in config.items():
        assert f"| --config.{key.replace('_', '-')} | {value} |" in card
    assert "| steps | 7 |" in card


def test_the_card_shows_networks_by_name_and_digest_and_never_a_path(tmp_path):
    counts = dict.fromkeys(
        ("train_images", "train_people", "train_pairs", "steps", "images_seen", "seed"), 1
    )
    header = store.Header(
        generator="patn",
        config={
            "base_width": 32,
            "features": "/home/me/discriminator.pt2",
            "identity": "/home/me/id.pt2",
        },
        facts={**counts, "features_sha256": "f" * 64, "identity_sha256": "1" * 64},
    )
    weights = tmp_path / "weights.safetensors"
    store.save_weights({"block.weight": torch.zeros(2)}, weights, header)
    (tmp_path / "evaluation.md").write_text("3 pairs")

    subprocess.run(
        [sys.executable, ROOT / "scripts" / "training_card.py", "--weights", weights,
         "--evaluation", tmp_path / "evaluation.md", "--out", tmp_path / "card.md"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True,
    )  # fmt: skip

    card = (tmp_path / "card.md").read_text()
    assert "/home" not in card
    assert "| --config.features | discriminator.pt2 |" in card
    assert f"| features network, sha256 | {'f' * 64} |" in card
    assert "| --config.identity | id.pt2 |" in card
    assert f"| identity network, sha256 | {'1' * 64} |" in card


def test_a_call_without_data_is_refused_with_one_sentence():
    found = subprocess.run(
        [ROOT / "scripts" / "train_market1501", "--out", "x"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "found no --market" in found.stderr
