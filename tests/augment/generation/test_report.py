"""``augment report``: the page of a synthetic set."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from augment.cli import PROGRAM
from augment.generation.report import ReportSettings, report
from augment.quality.sharpness import sharpness
from manifests import pixels
from manifests.io import read_images, write_images
from manifests.runtime.console import Exit, UserError
from manifests.synthetic import read_synthetic
from tests.helpers import trivial
from tests.helpers.browser import NARROW, WIDE, opened, scrolls_sideways, serious_violations
from tests.helpers.generation import QUIET, run, take_a_source_away

EVIL = "<img src=x onerror=alert(1)>"


def facts_of(text: str) -> dict[str, int]:
    found = re.findall(r'data-fact="(\w+)" data-value="(\d+)"', text)
    return {name: int(value) for name, value in found}


def write_screened(folder, out, dropped):
    """Write what 'reid screen' leaves: a manifest with errors, and what was found."""
    table = pq.read_table(out / "manifest.parquet")
    names = table["image_id"].to_pylist()
    errors = ["screened out: number 9" if name in dropped else None for name in names]
    folder.mkdir()
    field = table.schema.field("error")
    table = table.set_column(table.schema.get_field_index("error"), field, [errors])
    shards = [f"{out}/data/{name}" for name in table["shard"].to_pylist()]
    table = table.set_column(
        table.schema.get_field_index("shard"), table.schema.field("shard"), [shards]
    )
    pq.write_table(table, folder / "manifest.parquet")
    seen = {
        "image_id": names,
        "person_id": table["person_id"],
        "similarity": pa.array(np.linspace(0.2, 0.9, len(names)), pa.float32()),
        "rank": [9 if name in dropped else 1 for name in names],
        "nearest_person": table["person_id"],
        "weight": pa.array([None if name in dropped else 1.0 for name in names], pa.float32()),
    }
    pq.write_table(pa.table(seen), folder / "screen.parquet")
    (folder / "run.json").write_text('{"config": {"drop_beyond": 5}}')
    (folder / "_SUCCESS").touch()


def test_the_page_counts_the_rows_of_the_manifest_and_shows_every_pose(people, out, tmp_path):
    page = tmp_path / "page.html"
    assert report(ReportSettings(run=out, html=page, people=2), QUIET) is Exit.DONE
    text = page.read_text("utf-8")
    made, real = read_synthetic(out), read_images(people)
    assert facts_of(text) == {"images": len(made), "real": len(real), "failed": 0, "dropped": 0}
    counts = [int(value) for value in re.findall(r'<dd data-value="(\d+)">', text)]
    assert (sum(counts[::2]), sum(counts[1::2])) in {(0, 0), (len(real), len(made))}
    assert text.count('<section aria-label="Person ') == 2
    assert "No row failed." in text
    assert "is not known: &#39;reid screen&#39;" in text or "is not known: 'reid screen'" in text


def test_pictures_are_blank_or_linked_until_they_are_asked_for(people, out, tmp_path):
    page = tmp_path / "page.html"
    report(ReportSettings(run=out, html=page), QUIET)
    text = page.read_text("utf-8")
    assert "data:image/jpeg" not in text
    assert "Generated images lie in shards and are blank" in text
    assert str(tmp_path) not in text
    report(ReportSettings(run=out, html=page, embed_images=True), QUIET)
    text = page.read_text("utf-8")
    assert text.count('src="data:image/jpeg') > 20
    assert "it shows people" in text
    assert str(tmp_path) not in text


def test_failed_rows_are_listed_with_their_errors(people, tmp_path):
    path, away = take_a_source_away(people)
    assert run(people, tmp_path / "failing") is Exit.ROW_ERRORS
    away.rename(path)
    page = tmp_path / "page.html"
    report(ReportSettings(run=tmp_path / "failing", html=page), QUIET)
    text = page.read_text("utf-8")
    synthetic = read_synthetic(tmp_path / "failing")
    failed = [
        (name, error)
        for name, error in zip(*map(synthetic.strings, ("image_id", "error")), strict=True)
        if error
    ]
    assert failed
    assert facts_of(text)["failed"] == len(failed)
    for name, error in failed:
        row = re.search(rf'scope="row">{name}</th>.*?</tr>', text)
        assert row is not None
        assert error in unescape(row[0])


def test_a_screened_set_shows_what_was_dropped_and_the_worst_first(people, out, tmp_path):
    names = read_synthetic(out).strings("image_id")
    write_screened(tmp_path / "screened", out, names[:3])
    page = tmp_path / "page.html"
    settings = ReportSettings(run=tmp_path / "screened", html=page, images=people)
    report(settings.model_copy(update={"root": people.parent}), QUIET)
    text = page.read_text("utf-8")
    assert facts_of(text)["dropped"] == 3
    assert facts_of(text)["images"] == len(names) - 3
    identity = text[text.index("<h3>Identity</h3>") :]
    assert "3 were dropped" in identity
    assert "own person is number 9" in identity[: identity.index("highest")]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (("screen.parquet", b"PAR1"), "not a readable Parquet file; expected what 'reid screen' w"),
        (("run.json", b"{"), "run.json: not readable as JSON"),
        (("run.json", b"{}"), "run.json: found no entry 'config'"),
        (("run.json", b'{"config": {}, "settings": []}'), "run.json: found an entry 'settings'"),
    ],
)
def test_damaged_files_of_a_screened_set_are_refused(people, out, tmp_path, file, said):
    write_screened(tmp_path / "screened", out, set(read_synthetic(out).strings("image_id")[:1]))
    (tmp_path / "screened" / file[0]).write_bytes(file[1])
    settings = ReportSettings(run=tmp_path / "screened", html=tmp_path / "p.html", images=people)
    with pytest.raises(UserError, match=re.escape(said)):
        report(settings, QUIET)


def test_a_similarity_that_is_no_number_is_refused(people, out, tmp_path):
    write_screened(tmp_path / "screened", out, set(read_synthetic(out).strings("image_id")[:1]))
    table = pq.read_table(tmp_path / "screened/screen.parquet")
    broken = pa.array([float("nan")] * len(table), pa.float32())
    pq.write_table(table.set_column(2, "similarity", broken), tmp_path / "screened/screen.parquet")
    settings = ReportSettings(run=tmp_path / "screened", html=tmp_path / "p.html", images=people)
    with pytest.raises(UserError, match=r"screen.parquet: found a similarity that is no number"):
        report(settings, QUIET)


def test_an_error_with_html_in_it_is_text(people, out, tmp_path):
    table = pq.read_table(out / "manifest.parquet")
    errors = [EVIL, *[None] * (len(table) - 1)]
    index = table.schema.get_field_index("error")
    pq.write_table(
        table.set_column(index, table.schema.field("error"), [errors]), out / "manifest.parquet"
    )
    page = tmp_path / "page.html"
    report(ReportSettings(run=out, html=page), QUIET)
    text = page.read_text("utf-8")
    assert EVIL not in text
    assert EVIL in unescape(text)


def test_images_that_moved_are_named_by_a_flag_and_lost_ones_are_blank(people, out, tmp_path):
    moved = tmp_path / "moved"
    people.parent.rename(moved)
    page = tmp_path / "page.html"
    with pytest.raises(UserError, match=r"was made from the table .*, which is not there"):
        report(ReportSettings(run=out, html=page), QUIET)
    for image in moved.glob("*.jpg"):
        image.unlink()
    settings = ReportSettings(run=out, html=page, images=moved / "images.parquet", root=moved)
    assert report(settings, QUIET) is Exit.DONE
    assert "images were not found and are blank" in page.read_text("utf-8")


def test_a_folder_that_does_not_exist_is_refused_before_the_run_is_read(tmp_path):
    page = tmp_path / "nowhere" / "page.html"
    with pytest.raises(UserError, match=r"found no folder .*nowhere, expected one that exists"):
        PROGRAM.run(["report", str(tmp_path / "nothing"), "--html", str(page)])
    with pytest.raises(UserError, match="expected the OUT of 'augment generate'"):
        PROGRAM.run(["report", str(tmp_path / "nothing"), "--html", str(tmp_path / "p.html")])


def test_a_sharp_image_has_a_larger_score_than_the_same_one_blurred(person):
    image = person(0)
    small = pixels.resize(image, (16, 32))
    blurred = pixels.resize(small, (64, 128))
    values = sharpness(np.stack([image, blurred]))
    assert values[0] > 2 * values[1]


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(NARROW, "light"), (WIDE, "dark")])
def test_the_page_fits_its_window_and_axe_finds_nothing_serious(
    people, out, tmp_path, width, scheme
):
    page = tmp_path / "page.html"
    report(ReportSettings(run=out, html=page, embed_images=True), QUIET)
    with opened(page, width=width, scheme=scheme) as tab:
        assert not scrolls_sideways(tab)
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert not scrolls_sideways(tab)
        assert serious_violations(tab) == []
        broken = (
            "[...document.images].filter((i) => !i.naturalWidth && i.loading !== 'lazy').length"
        )
        assert tab.evaluate(broken) == 0


def test_the_page_of_a_set_for_test_time_holds_it_against_the_test_images(tmp_path):
    people = trivial.write_people(tmp_path / "people")
    images = read_images(people)
    place = images.table.schema.get_field_index("split")
    splits = ["query", "gallery"] * (len(images) // 2)
    table = images.table.set_column(place, images.table.schema.field("split"), pa.array(splits))
    write_images(replace(images, table=table), people)
    assert run(people, tmp_path / "out", per_id=10, purpose="test-time") is Exit.DONE
    page = tmp_path / "page.html"
    assert report(ReportSettings(run=tmp_path / "out", html=page), QUIET) is Exit.DONE
    text = page.read_text("utf-8")
    assert facts_of(text)["real"] == len(images)
    assert "query and gallery images of 4 people" in " ".join(text.split())
