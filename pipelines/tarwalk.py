"""Walk through a tar from front to back in bounded memory, and see every way in which it is not whole.

The source decides whether payloads that nobody asks for are read or jumped over; the damage that is seen is the same.

``tarfile`` takes a tar that ends early for a finished one; here only two zero blocks end it.
"""

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.bytesource import ByteSource, read_upto

_BLOCK = 512
_MAX_HEADER_BYTES = 1 << 20
_MAX_PADDING_BYTES = 1 << 20
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
    "after_end": "more follows the end-of-archive blocks, where no reader looks: two tars in one file?",
}


class Member(NamedTuple):
    """A regular file of a tar: its bytes are [offset, offset + size)."""

    name: str
    offset: int
    size: int


class TarWalk:
    """Iterate once over the regular members of a tar.

    Between two steps the current member's bytes can be taken by ``body()``, in pieces, or left by ``skip_body()``.
    ``num_skipped`` counts members that are no regular files (folders aside).

    Raises, while iterating:
        ShardError: with the members before the damage already given.
    """

    def __init__(self, source: ByteSource):
        self._source = source
        self._body_left = self._padding = 0
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
                payload = read_upto(self._source, size)
                self._skip(size - len(payload) + -size % _BLOCK)
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    extended["path"] = payload.rstrip(b"\0").decode("utf-8", "surrogateescape")
                elif header.type == tarfile.XHDTYPE:
                    extended |= _pax_fields(payload)
                continue
            name, is_sparse = extended.get("path", header.name), any(key.startswith("GNU.sparse") for key in extended)
            extended = {}
            self._body_left = size if header.type not in _WITHOUT_BODY else 0
            self._padding = -self._body_left % _BLOCK
            if header.type in tarfile.REGULAR_TYPES and header.type != tarfile.GNUTYPE_SPARSE and not is_sparse:
                yield Member(name, self._source.position, size)
            elif header.type != tarfile.DIRTYPE:
                self.num_skipped += 1
            self.skip_body()
            self._skip(self._padding)

    def body(self) -> Iterator[bytes]:
        """The bytes of the current member that were not yet taken."""
        while self._body_left:
            piece = self._source.some(self._body_left)
            if not piece:
                raise self._cut()
            self._body_left -= len(piece)
            yield piece

    def skip_body(self) -> None:
        """Leave what was not yet taken of the current member.

        Raises:
            ShardError: ``cut_member``, the file ends before the member does.
        """
        count, self._body_left = self._body_left, 0
        self._skip(count)

    def _check_end(self) -> None:
        """Zeros may follow the end, to fill up a record; writers fill up to 10 KiB or so."""
        at = self._source.position
        if any(read_upto(self._source, _MAX_PADDING_BYTES)):
            raise ShardError("after_end", f"the archive ends at byte {at}, the file does not")

    def _skip(self, count: int) -> None:
        if self._source.skip(count) < count:
            raise self._cut()

    def _cut(self) -> ShardError:
        return ShardError("cut_member", f"the file ends at byte {self._source.position}")

    def _header(self) -> tarfile.TarInfo | None:
        """The next header, None at the end-of-archive blocks."""
        at = self._source.position
        block = read_upto(self._source, _BLOCK)
        if at == 0:
            _check_start(block)
        if len(block) < _BLOCK:
            raise ShardError("no_end", f"the file ends at byte {at + len(block)}")
        if not any(block):
            second = read_upto(self._source, _BLOCK)
            if len(second) == _BLOCK and not any(second):
                self._check_end()
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
