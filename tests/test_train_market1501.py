"""scripts/train_market1501 on a tiny data set: pieces, the move to another disk, the card."""

import json
import subprocess
from pathlib import Path

import pytest

from augment.checkpoints import store
from augment.generators import names, system
from scripts import training_card

ROOT = Path(__file__).resolve().parents[1]

TINY = [
    "--config.base-width", "4", "--config.discriminator-width", "4", "--config.num-blocks", "1",
    "--config.pool-size", "2", "--config.features", "none", "--config.batch-size", "2",
    "--config.steps", "2", "--device", "cpu",
]  # fmt: skip


@pytest.mark.slow
def test_pieces_on_two_disks_end_in_scored_weights_and_a_card_that_says_so(
    tiny_images, tiny_root, tmp_path
):
    annotation = (tiny_root / "keypoints.csv").read_text()
    (tiny_root / "market-annotation-train.csv").write_text(annotation)
    (tiny_root / "market-annotation-test.csv").write_text(annotation.splitlines()[0] + "\n")
    (tiny_root / "market-pairs-test.csv").write_text(
        "from,to\n0001_c2s1_009001_01.jpg,0003_c1s3_064750_01.jpg\n"
    )

    def piece(out, *words):
        return subprocess.run(
            [ROOT / "scripts" / "train_market1501", "--market", tiny_root, "--keypoints", tiny_root,
             "--generator", "xinggan", "--out", tmp_path / out, *words, "--", *TINY],
            check=False, capture_output=True, text=True,
        )  # fmt: skip

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


def test_a_call_without_data_is_refused_with_one_sentence():
    found = subprocess.run(
        [ROOT / "scripts" / "train_market1501", "--out", "x"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert "found no --market" in found.stderr
