"""``augment status``."""

import json

import pytest

from augment.generation.status import StatusSettings, look, status
from manifests.runtime.console import Exit, UserError
from tests.helpers.generation import QUIET, run


def test_status_tells_how_far_a_run_has_come_from_its_folder_alone(people, tmp_path, capsys):
    run(people, tmp_path / "out", worker="1/2")
    (tmp_path / "out/data/.part-000000.parquet.0.tmp").write_text("")
    (tmp_path / "out/data/part-000000.parquet").write_text("half")

    for as_json in (False, True):
        settings = StatusSettings(out=tmp_path / "out", as_json=as_json)
        assert status(settings, QUIET) == Exit.DONE

    *text, line = capsys.readouterr().out.splitlines()
    assert text == [
        "not finished: 2 of 5 shards, 8 of 20 rows",
        "1 shards are damaged and will be made again",
        "1 files are being written or were left behind",
        "the same 'augment generate' command goes on",
    ]
    assert json.loads(line) == {
        "finished": False,
        "shards": 5,
        "shards_complete": 2,
        "shards_damaged": 1,
        "rows": 20,
        "rows_complete": 8,
        "rows_failed": 0,
        "unpublished_files": 1,
    }


def test_status_of_a_finished_run(out):
    assert look(out).text() == "finished: 5 of 5 shards, 20 of 20 rows\n"


def test_status_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a folder without run\.json; expected the OUT"):
        look(tmp_path)
    with pytest.raises(UserError, match="no such folder; expected the OUT"):
        look(tmp_path / "nowhere")
