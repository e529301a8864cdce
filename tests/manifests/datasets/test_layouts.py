"""The layouts that ``augment index`` knows, and one more in a file of its own."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from augment.cli import PROGRAM
from manifests import datasets, pixels
from manifests.datasets.layouts import layouts
from manifests.io import read_images

NEW_LAYOUT = '''
"""One folder per person, all of it train."""

from manifests import rules
from manifests.datasets.crops import Crop, Report, images_of
from manifests.datasets.layouts import Layout


def index(root, options):
    files = sorted(root.glob("*/*.jpg"))
    crops = [Crop(f"{f.parent.name}/{f.name}", f"{f.parent.name}/{f.name}", "train", f.parent.name)
             for f in files]
    images = images_of(crops, root, {"layout": "person_folders"})
    return images, Report(rules.check_images(images, str(root)))


LAYOUT = Layout("one folder per person", index)
'''


@pytest.fixture
def second_layout(tmp_path, monkeypatch):
    """Put one new file into the package."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "person_folders.py").write_text(NEW_LAYOUT)
    monkeypatch.setattr(datasets, "__path__", [*datasets.__path__, str(package)])
    yield "person_folders"
    sys.modules.pop(f"{datasets.__name__}.person_folders", None)


def refusal(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        PROGRAM.main(arguments)
    assert left.value.code == 2
    return capsys.readouterr().err


def help_text(capsys, program=PROGRAM):
    with pytest.raises(SystemExit):
        program.main(["index", "--help"])
    return " ".join(capsys.readouterr().out.replace("\u2502", " ").split())


def test_a_new_layout_is_one_new_file(second_layout, tmp_path, person, capsys):
    for name in ("anna/1.jpg", "ben/1.jpg", "ben/2.jpg"):
        file = tmp_path / "crops" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pixels.encode_jpeg(person(1)))
    out = tmp_path / "images.parquet"

    PROGRAM.run(["index", str(tmp_path / "crops"), "--layout", second_layout, "--out", str(out)])

    assert read_images(out).strings("person_id") == ["anna", "ben", "ben"]
    # scripts/write_help stores it so.
    afresh = replace(PROGRAM, pages=None)
    assert "person_folders: one folder per person" in help_text(capsys, afresh)


def test_help_lists_every_layout(capsys):
    text = help_text(capsys)
    assert sorted(layouts()) == ["cuhk03", "dukemtmc", "folder", "market1501", "msmt17"]
    for name, layout in layouts().items():
        assert f"{name}: {layout.summary}" in text


def test_a_misspelt_layout_is_told_the_known_ones(tiny_root, tmp_path, capsys):
    arguments = ["index", str(tiny_root), "--layout", "markt", "--out", str(tmp_path / "i.parquet")]
    assert refusal(arguments, capsys) == (
        "error: --layout: found 'markt', expected one of cuhk03, dukemtmc, folder, market1501, "
        "msmt17\n"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--layout", "market1501", "--table", "t.csv"],
            "--table: found the layout 'market1501', expected folder",
        ),
        (
            ["--layout", "market1501", "--pattern", "x"],
            "--pattern: found the layout 'market1501', expected folder",
        ),
        (
            ["--layout", "folder"],
            "layout 'folder': found neither --table nor --pattern, expected one of them",
        ),
        (
            ["--table", "t.csv", "--pattern", "x"],
            "found --table and --pattern, expected one of them",
        ),
    ],
)
def test_a_flag_of_another_layout_is_refused(flags, sentence, tiny_root, tmp_path, capsys):
    out = tmp_path / "i.parquet"
    assert refusal(["index", str(tiny_root), "--out", str(out), *flags], capsys) == (
        f"error: {sentence}\n"
    )
    assert not out.exists()


@pytest.mark.parametrize("flags", [[], ["--layout", "market1501"]])
def test_market1501_is_the_default_layout(flags, tiny_root, tmp_path):
    out = tmp_path / "i.parquet"
    PROGRAM.run(["index", str(tiny_root), "--out", str(out), "--quiet", *flags])
    assert read_images(out).provenance["layout"] == "market1501"


def test_a_table_or_a_pattern_implies_the_layout_folder(tiny_root, tmp_path):
    out = tmp_path / "i.parquet"
    pattern = r"query/(?P<person_id>\d+)_.*"
    flags = ["--pattern", pattern, "--allow-skipped", "--quiet"]
    PROGRAM.run(["index", str(tiny_root), "--out", str(out), *flags])
    assert read_images(out).provenance["layout"] == "pattern"
