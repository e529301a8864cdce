"""One model of a table, and the files it is written to."""

import argparse
import csv
import io
import math
import shutil
import subprocess

import pytest

from manifests.runtime.command_line import parse
from manifests.runtime.console import UserError
from manifests.runtime.tables import (
    Column,
    Number,
    Table,
    TableFiles,
    latex_text,
    to_csv,
    to_latex,
)


def scores(title: str = "", *means: float) -> Table:
    columns = (Column("arm"), Column("mAP", "r", "highest"), Column("FID", "r", "lowest"))
    rows = [(f"arm_{i}", Number(mean, deviation=0.1), Number(mean)) for i, mean in enumerate(means)]
    return Table(columns, tuple(rows), title, group="fraction")


def test_a_cell_with_the_sign_of_a_column_stays_one_cell():
    table = Table.of(["flag"], [["a|b"]]).to_markdown()
    assert table.splitlines()[-1] == r"| a\|b |"


def test_an_empty_cell_is_one_space():
    table = Table.of(["", ""], [["steps", 7]]).to_markdown()
    assert table == "| | |\n|---|---|\n| steps | 7 |"


def test_a_padded_table_keeps_its_columns_under_each_other():
    rows = [["real", "9.5"], ["real + synthetic", "10.25"]]
    table = Table.of(["arm", "mAP"], rows, "lr").to_markdown(padded=True)
    assert table.splitlines() == [
        "| arm              |   mAP |",
        "|------------------|------:|",
        "| real             |   9.5 |",
        "| real + synthetic | 10.25 |",
    ]


@pytest.mark.parametrize(
    ("row", "align", "said"), [(["a"], "", "expected 2 cells"), (["a", "b"], "l", "2 letters")]
)
def test_another_number_of_columns_is_refused(row, align, said):
    with pytest.raises(ValueError, match=said):
        Table.of(["x", "y"], [row], align)


def test_a_script_writes_the_same_files_as_a_command(tmp_path):
    parser = argparse.ArgumentParser()
    TableFiles.add_to(parser)
    path = tmp_path / "table.csv"
    files = TableFiles.of_options(parser.parse_args(["--csv", str(path)]))
    assert files == TableFiles(csv=path)
    table = Table.of(["way", "img/s"], [["plain", Number(1 / 3)]], "lr")
    files.write(table.to_markdown(), [table])
    assert path.read_text() == f"way,img/s\nplain,{1 / 3!r}\n"


def test_csv_holds_every_digit_and_a_column_per_uncertainty():
    gain = Number(100 / 3, "+.2f", interval=(-1 / 3, math.inf))
    table = Table.of(["arm", "gain"], [["none", "baseline"], ['a "b", c', gain]])
    first, second = csv.DictReader(io.StringIO(to_csv([table])))
    assert first == {"arm": "none", "gain": "baseline", "gain low": "", "gain high": ""}
    assert second["arm"] == 'a "b", c'
    assert float(second["gain"]) == 100 / 3
    assert (float(second["gain low"]), float(second["gain high"])) == (-1 / 3, math.inf)


def test_csv_of_several_tables_says_which_one_a_row_is_of_and_keeps_the_order_of_columns():
    other = Table.of(["arm", "seeds"], [["none", 3]])
    text = to_csv([scores("20%", 30, 31), other])
    assert text.splitlines() == [
        "fraction,arm,mAP,mAP sd,FID,table,seeds",
        "20%,arm_0,30.0,0.1,30.0,,",
        "20%,arm_1,31.0,0.1,31.0,,",
        ",none,,,,,3",
    ]


def test_latex_has_booktabs_rules_and_the_best_of_each_column_in_bold():
    text = to_latex([scores("20% of it", 30.001, 31.004, 31.0)])
    assert r"\caption{20\% of it.}" in text
    assert r"\begin{tabular}{lrr}" in text
    rows = [line for line in text.splitlines() if line.startswith("arm")]
    assert rows == [
        r"arm & mAP & FID \\",
        r"arm\_0 & $30.00 \pm 0.10$ & $\mathbf{30.00}$ \\",
        r"arm\_1 & $\mathbf{31.00 \pm 0.10}$ & $31.00$ \\",
        r"arm\_2 & $\mathbf{31.00 \pm 0.10}$ & $31.00$ \\",
    ]
    assert [text.count(rf"\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]


def test_one_number_alone_is_not_the_best_of_its_column():
    assert r"\mathbf" not in to_latex([scores("", 30)])


def test_signs_of_latex_are_shown_and_not_obeyed():
    assert latex_text(r"[a]\b{c}~d^e<f>|+-") == (
        r"{[}a]\textbackslash{}b\{c\}\textasciitilde{}d\textasciicircum{}e"
        r"\textless{}f\textgreater{}\textbar{}$\pm$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles(tmp_path):
    gain = Number(3.0, "+.2f", interval=(-math.inf, math.inf))
    table = Table.of(["arm", "[x] | gain"], [[r"[a]_\{}~^<>&%$#", gain]])
    text = to_latex([scores("20%", 1, 2), table])
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        + text
        + "\\end{document}\n"
    )
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)


def test_only_files_that_were_asked_for_are_written_and_whole(tmp_path):
    table = scores("", 1, 2)
    files = TableFiles(csv=tmp_path / "new" / "t.csv", latex=tmp_path / "t.tex")
    files.write("text\n", [table])
    assert (tmp_path / "new" / "t.csv").read_text() == to_csv([table])
    assert (tmp_path / "t.tex").read_text() == to_latex([table])
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["t.csv", "t.tex"]


def test_one_file_for_two_kinds_of_table_is_refused_before_anything_is_computed():
    arguments = ["--csv", "table", "--latex", "./table"]
    with pytest.raises(UserError, match="--csv and --latex: found table for both, expected two"):
        parse(TableFiles, "reid compare", "", arguments)
