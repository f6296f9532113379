"""Walk through a tar from front to back in bounded memory, and see every way in which it is not whole.

``tarfile`` takes a tar that ends early for a finished one; here only two zero blocks end it.
"""

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

_BLOCK = 512
_MAX_HEADER_BYTES = 1 << 20
_GZIP, _ZSTD, _BZIP2, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"


class ShardError(Exception):
    """The tar as a whole is damaged. ``code`` is a key of ``SHARD_REASONS``."""

    def __init__(self, code: str, detail: str):
        assert code in SHARD_REASONS, code
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


SHARD_REASONS = {
    "empty_shard": "the file holds no bytes",
    "no_samples": "the shard holds no sample",
    "compressed": "the file is compressed, so its members cannot be read by range",
    "not_a_tar": "the file does not start with a tar header",
    "bad_header": "a header inside the tar is damaged",
    "cut_member": "the file ends inside a member",
    "no_end": "the end-of-archive blocks are missing, so the file may be cut",
    "read_failed": "the store did not give the file",
}


class Member(NamedTuple):
    """A regular file of a tar: its bytes are [offset, offset + size)."""

    name: str
    offset: int
    size: int


class TarWalk:
    """Iterate once over the regular members of a tar given in chunks.

    Between two steps the current member's bytes can be taken by ``body()``, in pieces. ``num_skipped`` counts
    members that are no regular files (folders aside).

    Raises, while iterating:
        ShardError: with the members before the damage already given.
    """

    def __init__(self, chunks: Iterator[bytes]):
        self._source = _Source(chunks)
        self._body_left = 0
        self.num_skipped = 0

    def __iter__(self) -> Iterator[Member]:
        extended: dict[str, str] = {}
        while True:
            header = self._header()
            if header is None:
                return
            size = int(extended.get("size", header.size))
            if size < 0:
                raise ShardError("bad_header", f"a member of {size} bytes")
            if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
                if size > _MAX_HEADER_BYTES:
                    raise ShardError("bad_header", f"an extended header of {size} bytes")
                payload = self._source.take(size)
                self._source.skip(-size % _BLOCK)
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    extended["path"] = payload.rstrip(b"\0").decode("utf-8", "surrogateescape")
                elif header.type == tarfile.XHDTYPE:
                    extended |= _pax_fields(payload)
                continue
            name, is_sparse = extended.get("path", header.name), any(key.startswith("GNU.sparse") for key in extended)
            extended = {}
            self._body_left = size if header.type not in _WITHOUT_BODY else 0
            padding = -self._body_left % _BLOCK
            if header.type in tarfile.REGULAR_TYPES and header.type != tarfile.GNUTYPE_SPARSE and not is_sparse:
                yield Member(name, self._source.position, size)
            elif header.type != tarfile.DIRTYPE:
                self.num_skipped += 1
            self._source.skip(self._body_left + padding)
            self._body_left = 0

    def body(self) -> Iterator[bytes]:
        """The bytes of the current member that were not yet taken."""
        while self._body_left:
            piece = self._source.some(self._body_left)
            self._body_left -= len(piece)
            yield piece

    def _header(self) -> tarfile.TarInfo | None:
        """The next header, None at the end-of-archive blocks."""
        at = self._source.position
        block = self._source.upto(_BLOCK)
        if at == 0:
            _check_start(block)
        if len(block) < _BLOCK:
            raise ShardError("no_end", f"the file ends at byte {at + len(block)}")
        if not any(block):
            second = self._source.upto(_BLOCK)
            if len(second) == _BLOCK and not any(second):
                return None
            raise ShardError("no_end", f"one zero block alone at byte {at}")
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ShardError("bad_header" if at else "not_a_tar", f"at byte {at}: {error}") from error


_WITHOUT_BODY = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)


def _check_start(block: bytes) -> None:
    if not block:
        raise ShardError("empty_shard", "0 bytes")
    if block.startswith((_GZIP, _ZSTD, _BZIP2, _XZ)):
        raise ShardError("compressed", f"starts with {block[:4].hex()}")
    if len(block) < _BLOCK:
        raise ShardError("not_a_tar", f"{len(block)} bytes")


def _pax_fields(payload: bytes) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE\\n`` of an extended header."""
    fields, rest = {}, payload.rstrip(b"\0")
    while rest:
        length_text, _, _ = rest.partition(b" ")
        length = int(length_text) if length_text.isdigit() and len(length_text) < 8 else 0
        key, equals, value = rest[len(length_text) + 1 : length].rstrip(b"\n").partition(b"=")
        if not equals:
            raise ShardError("bad_header", "a damaged extended header")
        fields[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        rest = rest[length:]
    if not fields.get("size", "0").isdigit():
        raise ShardError("bad_header", "an extended header with a damaged size")
    return fields


class _Source:
    """Read a stream of chunks in pieces of any size."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks = chunks
        self._view = memoryview(b"")
        self.position = 0

    def some(self, limit: int) -> bytes:
        """1 to ``limit`` bytes."""
        piece = self._piece(limit)
        if not piece:
            raise ShardError("cut_member", f"the file ends at byte {self.position}")
        return bytes(piece)

    def upto(self, count: int) -> bytes:
        """``count`` bytes, fewer at the end of the file."""
        parts = []
        while count and (piece := self._piece(count)):
            parts.append(piece)
            count -= len(piece)
        return b"".join(parts)

    def take(self, count: int) -> bytes:
        data = self.upto(count)
        if len(data) < count:
            raise ShardError("cut_member", f"the file ends at byte {self.position}")
        return data

    def skip(self, count: int) -> None:
        while count:
            count -= len(self.some(count))

    def _piece(self, limit: int) -> memoryview:
        while not self._view and (chunk := next(self._chunks, None)) is not None:
            self._view = memoryview(chunk)
        piece, self._view = self._view[:limit], self._view[limit:]
        self.position += len(piece)
        return piece
