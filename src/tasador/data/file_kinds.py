"""Tell from its bytes what a file is, and say what to do with one that cannot be read."""

from __future__ import annotations

import io
import re
import zipfile

from tasador.core.errors import SourceError

#: What can be read, for messages.
ACCEPTED = "CSV, Excel, Parquet, Arrow, JSON, or a tar, gz or zip that holds one of them"
#: Kinds of files that are recognised and cannot be read: how they begin, and what to do.
_UNREADABLE: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(pattern, re.I | re.S), kind, remedy)
    for pattern, kind, remedy in (
        (rb"SQLite format 3\x00", "an SQLite database",
         "name a query: tasador init --sql sqlite:///FILE 'SELECT ...' --target COLUMN"),
        (rb"\s*(?:<!doctype html|<html|<table|<head|<meta|<div)", "a web page, whatever its name",
         "open it in a spreadsheet program and save it as .xlsx or CSV (UTF-8)"),
        (rb"\s*<\?xml", "XML", "save it as .xlsx or CSV (UTF-8)"),
        (rb"%PDF", "a PDF document", "export the table as CSV (UTF-8)"),
        (rb"<stata_dta>|[\x69-\x73][\x01\x02]\x01\x00", "a Stata file",
         "save it as CSV or Parquet, for example with pandas.read_stata"),
        (rb"\$FL[23]", "an SPSS file",
         "save it as CSV or Parquet, for example with pandas.read_spss"),
        (rb"\x00{12}\xc2\xea\x81\x60", "a SAS file",
         "save it as CSV or Parquet, for example with pandas.read_sas"),
        (rb"\x89HDF", "an HDF5 file",
         "save it as Parquet, for example with pandas.read_hdf and to_parquet"),
        (rb"RD[AX][23]\n", "an R data file", "save it in R with write.csv"),
        (rb"\x80[\x02-\x05]", "a Python pickle", "save it as Parquet with to_parquet"),
        (rb"\x93NUMPY", "a numpy array", "save it as CSV with column names"),
        (rb"Obj\x01", "an Avro file", "save it as Parquet"),
        (rb"ORC", "an ORC file", "save it as Parquet"),
        (rb"\{\\rtf", "a text document (RTF)", "save the table as CSV (UTF-8)"),
    )
)  # fmt: skip

#: What an xls file begins with, and a workbook with a password, whatever its kind.
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ZIP = b"PK\x03\x04"
PARQUET = b"PAR1"
ARROW = b"ARROW1"
_WORKBOOK_PARTS = {"xl/workbook.xml", "xl/workbook.bin", "content.xml"}


def refuse_unreadable(data: bytes, name: str) -> None:
    """Raise SourceError, with a way out, for a file of a known kind that cannot be read."""
    beginning = data[:1024].removeprefix(b"\xef\xbb\xbf")
    for pattern, kind, remedy in _UNREADABLE:
        if pattern.match(beginning):
            raise SourceError(f"{name} is {kind}", expected=ACCEPTED, remedy=remedy)


def is_tar(beginning: bytes) -> bool:
    """Tell from its first 512 bytes whether something is a tar archive."""
    return beginning[257:262] == b"ustar"


def is_json(beginning: bytes) -> bool:
    """Tell whether a text may be JSON."""
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def is_workbook(data: bytes) -> bool:
    """Tell whether a whole file is a workbook."""
    return data.startswith(OLE) or workbook_parts(data) is not None


def workbook_parts(data: bytes) -> list[zipfile.ZipInfo] | None:
    """Return the files within a workbook; None when it is no zip file or another one."""
    if not data.startswith(ZIP):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError):
        return None
    return parts if _WORKBOOK_PARTS.intersection(part.filename for part in parts) else None
