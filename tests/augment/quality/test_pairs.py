"""The test pairs: the published list, and the rule behind it."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from augment.quality.pairs import annotation_order, check_pairs, read_pairs, sample_pairs
from manifests.datasets.keypoint_files import read_keypoints
from manifests.runtime.console import UserError


def poses(count: int) -> np.ndarray:
    return np.tile(np.arange(36, dtype=np.float32).reshape(18, 2), (count, 1, 1))


def by_pandas(people: list[str], kept: list[int], count: int) -> list[list[int]]:
    """Return the published script's steps, one by one."""
    rows: list[tuple[int, int]] = []
    for person in pd.unique(np.asarray([people[row] for row in kept], dtype=object)):
        rows += permutations([row for row in kept if people[row] == person], 2)
    frame = pd.DataFrame(rows, columns=["from", "to"])
    drawn = frame.sample(n=min(count, len(frame)), replace=False, random_state=0)
    return drawn.to_numpy().tolist()


def test_pairs_equal_the_published_steps_in_pandas():
    people = ["0005", "0002", "0005", "0002", "0009", "0005", "0002", "0005"]
    joints = poses(8)
    joints[3, 2] = np.nan
    kept = [0, 1, 2, 4, 5, 6, 7]
    assert sample_pairs(people, joints, 6).tolist() == by_pandas(people, kept, 6)
    assert sample_pairs(people, joints, 100).tolist() == by_pandas(people, kept, 100)


def test_distractors_and_junk_make_no_pairs():
    people = ["-1", "-1", "0000", "0000", "0007", "0007"]
    assert sorted(sample_pairs(people, poses(6)).tolist()) == [[4, 5], [5, 4]]


def test_an_image_without_one_joint_of_the_torso_makes_no_pairs():
    for joint in (2, 5, 8, 11):
        joints = poses(3)
        joints[1, joint] = np.nan
        assert sorted(sample_pairs(["a", "a", "a"], joints).tolist()) == [[0, 2], [2, 0]]


def test_images_without_a_second_one_are_refused():
    with pytest.raises(UserError, match=r"found 2 images .* no two of one person"):
        sample_pairs(["a", "b"], poses(2))


def test_a_list_of_pairs_names_rows_of_the_table(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text("from,to\nb.jpg,a.jpg\na.jpg,c.jpg\nc.jpg,b.jpg\n")
    assert read_pairs(path, ["a.jpg", "b.jpg", "c.jpg"], 2).tolist() == [[1, 0], [0, 2]]


def test_a_list_with_an_unknown_image_is_refused(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text("from,to\na.jpg,z.jpg\n")
    with pytest.raises(UserError, match=r"pairs\.csv: image 'z\.jpg' is not in the images table"):
        read_pairs(path, ["a.jpg"])


def test_a_list_with_other_columns_is_refused(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text("source,target\na.jpg,a.jpg\n")
    with pytest.raises(UserError, match="expected from, to"):
        read_pairs(path, ["a.jpg"])


def test_a_list_that_pairs_an_image_with_itself_is_refused(tiny_images):
    pairs = np.array([[0, 0], [3, 3], [1, 1]])
    with pytest.raises(UserError, match=r"found 3 of 3 that show one image twice, the first '-1_c"):
        check_pairs(tiny_images, pairs, tiny_images.keypoints())


@pytest.mark.market1501
def test_the_annotation_files_order_gives_the_published_12000_pairs(market1501_keypoints: Path):
    annotation = market1501_keypoints / "market-annotation-test.csv"
    joints = read_keypoints(annotation)
    # A table is sorted; the rule must find the file's order again.
    names = sorted(joints)
    order = annotation_order(annotation, names)
    people = [names[row].split("_")[0] for row in order]
    drawn = order[sample_pairs(people, np.stack([joints[names[row]] for row in order]))]
    published = read_pairs(market1501_keypoints / "market-pairs-test.csv", names)
    assert len(published) == 12_000
    np.testing.assert_array_equal(drawn, published)
