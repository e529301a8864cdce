"""Tables in Markdown."""

import pytest

from manifests.runtime.markdown import markdown_table


def test_a_cell_with_the_sign_of_a_column_stays_one_cell():
    table = markdown_table(["flag"], [["a|b"]])
    assert table.splitlines()[-1] == r"| a\|b |"


def test_an_empty_cell_is_one_space():
    assert markdown_table(["", ""], [["steps", 7]]) == "| | |\n|---|---|\n| steps | 7 |"


def test_a_padded_table_keeps_its_columns_under_each_other():
    table = markdown_table(["arm", "mAP"], [["real", "9.5"], ["real + synthetic", "10.25"]], "lr",
                           padded=True)  # fmt: skip
    assert table.splitlines() == [
        "| arm              |   mAP |",
        "|------------------|------:|",
        "| real             |   9.5 |",
        "| real + synthetic | 10.25 |",
    ]


@pytest.mark.parametrize(("row", "align"), [(["a"], ""), (["a", "b"], "l")])
def test_another_number_of_columns_is_refused(row, align):
    with pytest.raises(ValueError, match="columns in header and rows"):
        markdown_table(["x", "y"], [row], align)
