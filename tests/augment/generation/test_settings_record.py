"""What a run leaves of its command line."""

import yaml

from augment.cli import PROGRAM
from manifests.runtime.console import Exit
from manifests.runtime.flags import RECORD


def test_a_run_leaves_its_settings_and_another_is_made_of_them(people, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["--images", str(people), "--weights", "patn-sample", "--per-id", "1", "--quiet"]
    assert PROGRAM.run(["generate", *arguments, "--out", str(first)]) is Exit.DONE
    record = yaml.safe_load((first / RECORD).read_text())
    assert (record["per-id"], record["weights"]) == (1, "patn-sample")
    again = ["--config", str(first / RECORD), "--out", str(second), "--quiet"]
    assert PROGRAM.run(["generate", *again]) is Exit.DONE
    for name in ("manifest.parquet", "README.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
