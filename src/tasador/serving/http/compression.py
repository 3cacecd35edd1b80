"""Compressed request bodies, inflated no further than the limit for plain ones."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from tasador.serving.errors import Problem, too_large, wrong_media_type

_ENCODINGS = ("gzip", "x-gzip", "deflate")
_PIECE = 256 * 1024


class Inflater:
    """Inflates a body piece by piece.

    Args:
        encoding: The value of Content-Encoding.
        limit: Most bytes that may come out.

    Raises:
        Problem: 415, the encoding is not one that is read.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        if encoding.strip().lower() not in _ENCODINGS:
            raise wrong_media_type(f"Content-Encoding {encoding[:50]!r}", "gzip", "deflate", "none")
        # 32 + 15: the header tells whether it is gzip's or zlib's
        self._inflater = zlib.decompressobj(32 + zlib.MAX_WBITS)
        self._limit = limit
        self._size = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what `piece` inflates to, never much at once.

        Raises:
            Problem: 413, more comes out than the limit; 422, it is not compressed so.
        """
        while piece:
            try:
                plain = self._inflater.decompress(piece, _PIECE)
            except zlib.error:
                raise _damaged() from None
            self._size += len(plain)
            if self._size > self._limit:
                raise too_large(self._limit)
            if plain:
                yield plain
            piece = self._inflater.unconsumed_tail
            if not plain and piece:
                raise _damaged()

    def finish(self) -> None:
        """Make sure that the whole body came.

        Raises:
            Problem: 422, its end is missing, or something follows it.
        """
        if not self._inflater.eof or self._inflater.unused_data:
            raise _damaged()


def inflate(encoding: bytes | None, body: bytes, limit: int) -> bytes:
    """Return a plain body.

    Args:
        encoding: The value of Content-Encoding, if any.
        body: As it came.
        limit: Most bytes that may come out.

    Raises:
        Problem: 413, 415 or 422.
    """
    if encoding is None or encoding.strip().lower() in (b"", b"identity"):
        return body
    inflater = Inflater(encoding.decode("latin-1"), limit)
    plain = b"".join(inflater.feed(body))
    inflater.finish()
    return plain


def _damaged() -> Problem:
    return Problem(
        422,
        "malformed_body",
        "the body cannot be inflated",
        expected="a whole body, compressed as Content-Encoding says",
        remedy="send it again, or uncompressed",
    )
