"""Folders that appear whole, and text that becomes a part of a path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from manifests.runtime.console import UserError
from manifests.runtime.new_folder import new_folder, path_part


@given(st.text())
@example("../../etc/passwd")
@example("/etc/passwd")
@example("..")
@example("")
@example("a\x00b")
@example("x" * 400 + ".jpg")
@example("\ud800")
def test_any_text_is_one_part_of_a_path_that_stays_in_its_folder(label):
    part = path_part(label)
    assert Path("folder", part).parts == ("folder", part)
    assert part not in {"", ".", ".."}
    assert len(part.encode()) <= 200


def test_long_names_that_differ_stay_different_and_keep_their_ending():
    first, second = (path_part("x" * 400 + f"{number}.jpg") for number in range(2))
    assert first != second
    assert first.endswith(".jpg")


def test_a_link_to_an_empty_folder_leads_to_the_new_one(tmp_path):
    (tmp_path / "far" / "empty").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "empty")
    with new_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["empty"]
    assert (tmp_path / "far" / "empty" / "file").read_text() == "x"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "c"):
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with (
        pytest.raises(UserError, match="b: exists already, expected a new or an empty folder"),
        new_folder(tmp_path / "a" / "b"),
    ):
        pass
