"""Whatever way a table is written, it is read back cell by cell."""

from __future__ import annotations

import csv
import io

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fixtures.workbooks import workbook
from tasador.contract.model import Source
from tasador.data.readers import parse_file

HEADER = ["Fläche", "zone", "note", "price"]
words = st.sampled_from(
    ["North", "Süd", "a, b", "x; y", 'say "hi"', "é", "1st floor", "two\nlines"]
)
rows = st.lists(
    st.tuples(
        st.integers(10, 400), words, st.sampled_from(["", "new", "old house"]),
        st.integers(1000, 10**6),
    ),
    min_size=5,
    max_size=30,
)  # fmt: skip
forms = st.fixed_dictionaries(
    {
        "encoding": st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]),
        "delimiter": st.sampled_from([",", ";", "\t", "|"]),
        "end": st.sampled_from(["\n", "\r\n", "\r"]),
        "title": st.sampled_from([[], ["Sales of 2022"], ["Sales", "as of May, all zones"]]),
        "padded": st.booleans(),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "surplus": st.booleans(),
        "again": st.booleans(),
        "total": st.booleans(),
        "footnote": st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(rows, forms)
def test_a_text_of_any_form_is_read_back(table, form):
    text = io.StringIO(newline="")
    # csv's writer only quotes the line ends that it writes itself
    broken = any("\n" in str(cell) for row in table for cell in row) and "\n" not in form["end"]
    quoting = csv.QUOTE_ALL if broken else form["quoting"]
    writer = csv.writer(
        text, delimiter=form["delimiter"], quoting=quoting, lineterminator=form["end"]
    )
    more = [""] if form["surplus"] else []
    empty = [""] * (len(HEADER) - 1 + len(more)) if form["padded"] else []
    writer.writerows([line, *empty] for line in form["title"])
    writer.writerow([*HEADER, *more])
    writer.writerows([*row, *more] for row in table[:3])
    if form["again"]:
        writer.writerow([*HEADER, *more])
    writer.writerows([*row, *more] for row in table[3:])
    if form["total"]:
        sums = [sum(row[i] for row in table) for i in (0, 3)]
        writer.writerow([sums[0], "Total", "", sums[1], *more])
    if form["footnote"]:
        writer.writerow(["Source: the land registry", *empty])
    data = text.getvalue().encode(form["encoding"])
    read = parse_file(data, "t")
    assert read.frame.columns == HEADER
    expected = [tuple(str(cell) or None for cell in row) for row in table]
    assert read.frame.rows() == expected
    assert parse_file(data, "t", read.source).frame.equals(read.frame)
    known = parse_file(data, "t", Source(), known=HEADER)
    assert known.frame.equals(read.frame)


@settings(max_examples=25, deadline=None)
@example([(10, "North", "", 1000)] * 5, 2, 1, True, True)
@given(rows, st.integers(0, 3), st.integers(0, 2), st.booleans(), st.booleans())
def test_a_sheet_of_any_form_is_read_back(table, titles, indent, again, total):
    pad = [None] * indent
    written = [[*pad, f"title {i}"] for i in range(titles)]
    written.append([*pad, *HEADER])
    written += [[*pad, *(cell or None for cell in row)] for row in table[:3]]
    if again:
        written.append([*pad, *HEADER])
    written += [[*pad, *(cell or None for cell in row)] for row in table[3:]]
    if total:
        sums = [sum(row[i] for row in table) for i in (0, 3)]
        written.append([*pad, sums[0], "Total", None, sums[1]])
    read = parse_file(workbook({"first": written}), "t.xlsx")
    assert read.frame.columns == HEADER
    assert read.frame.rows() == [tuple(cell or None for cell in row) for row in table]
