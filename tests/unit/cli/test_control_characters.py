"""What the commands print shows control characters, whatever text they came with."""

import polars as pl
import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fixtures.command_line import run_here
from tasador.cli.output import out

HOSTILE = "a\u202eb\x1b[2Jc\x00"


def test_a_monitored_column_of_a_hostile_name_is_shown_escaped(tmp_path):
    area = [float(n % 97) for n in range(400)]
    for name, factor in (("before.csv", 1.0), ("now.csv", 9.0)):
        values = [factor * one for one in area]
        pl.DataFrame({"\u202eaera": values, "price": area}).write_csv(tmp_path / name)
    words = ("monitor", "--reference", "before.csv", "--current", "now.csv")
    code, said, err = run_here(tmp_path, *words)
    assert code == 10, err
    assert "\\u202eaera: " in said
    assert "\u202e" not in said + err


@pytest.mark.parametrize(
    "printed",
    [HOSTILE, Text(HOSTILE), Text.assemble((HOSTILE, "red")), Group("first", Text(HOSTILE))],
    ids=["words", "text", "styled", "group"],
)
def test_no_way_of_printing_passes_a_control_character_on(printed, capsys):
    out.print(printed, soft_wrap=False)
    said = capsys.readouterr().out
    assert "a\\u202eb" in said
    assert not set(said) & set("\u202e\x1b\x00")


def test_a_table_of_hostile_cells_keeps_them_whole(capsys):
    table = Table("name")
    table.add_row(Text(HOSTILE))
    out.print(table)
    assert "a\\u202eb" in capsys.readouterr().out
