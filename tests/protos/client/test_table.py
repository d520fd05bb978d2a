"""Alignment of rows; nothing else."""

from vertebra.client.table import aligned


def test_the_last_cell_of_a_row_widens_no_column() -> None:
    rows = [("image", "label", "probability"), ("cat.jpg", "tabby", "75.00%"), ("b.jpg", "error: a long message")]
    assert aligned(rows) == ("image    label  probability\ncat.jpg  tabby  75.00%\nb.jpg    error: a long message\n")


def test_no_rows_are_no_text() -> None:
    assert aligned([]) == ""
