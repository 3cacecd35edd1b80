"""Appraisal reports as bytes of a file: one HTML page that loads nothing, or a PDF."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import util
from typing import TYPE_CHECKING, Literal

from tasador.core.errors import MissingExtraError

if TYPE_CHECKING:  # a service that starts asks what is installed, and needs no more of it
    from tasador.reporting.appraisal.document import Page
    from tasador.reporting.appraisal.portfolio import Summary

FileKind = Literal["html", "pdf"]
#: The module that makes such a file, and the package that brings it.
_NEEDED: dict[FileKind, tuple[str, str]] = {"html": ("jinja2", "jinja2"), "pdf": ("fpdf", "fpdf2")}


def check_installed(kind: FileKind) -> None:
    """Refuse a kind of file whose library is not installed, before any row is valued.

    Raises:
        MissingExtraError: It is not.
    """
    module, package = _NEEDED[kind]
    if util.find_spec(module) is None:
        raise MissingExtraError.for_package(package, "appraise")


def file_of(kind: FileKind, pages: Sequence[Page], summary: Summary | None = None) -> bytes:
    """Return pages of one property each, after a summary where there is one, as one file.

    Raises:
        MissingExtraError: The library that makes it is not installed.
    """
    check_installed(kind)
    if kind == "html":
        from tasador.reporting.cards import render

        return render("appraisal.html.j2", pages=pages, summary=summary).encode()
    from tasador.reporting.appraisal.pdf import pdf_of

    return pdf_of(pages, summary)
