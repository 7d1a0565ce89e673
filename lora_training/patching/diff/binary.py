"""Read and apply git binary patches: base85 lines, zlib, literals and deltas."""

from __future__ import annotations

import hashlib
import re

from lora_training.patching.model import Binary

# The largest size that a patch may state, so that a hostile one cannot fill the memory.
_LARGEST = 1 << 30
_HEADER = re.compile(rb"(literal|delta) (\d+)\n")
_COPY_ALL = 0x10000


def decode(header: bytes, lines: list[bytes]) -> Binary:
    """Decode one direction of a binary patch. Raises ValueError when it is damaged."""
    match = _HEADER.fullmatch(header)
    if not match or int(match[2]) > _LARGEST:
        raise ValueError("a binary patch with a senseless size")
    packed = b"".join(_line(line.rstrip(b"\n")) for line in lines)
    payload = _inflate(packed, int(match[2]))
    return Binary("literal" if match[1] == b"literal" else "delta", payload)


def _line(line: bytes) -> bytes:
    import base64

    letter = line[0]
    length = letter - 64 if letter < 91 else letter - 70  # noqa: PLR2004 - A..Z are 1..26, a..z 27..52
    data = base64.b85decode(line[1:])
    if not length <= len(data) < length + 4:
        raise ValueError("a damaged line in a binary patch")
    return data[:length]


def _inflate(packed: bytes, size: int) -> bytes:
    import zlib

    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, size + 1)
    except zlib.error as exc:
        raise ValueError("a binary patch that does not inflate") from exc
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise ValueError("a binary patch of another size than it says")
    return data


def apply(binary: Binary, old: bytes) -> bytes:
    """Return the new content. Raises ValueError when a delta does not fit `old`."""
    return binary.payload if binary.method == "literal" else _delta(binary.payload, old)


def _delta(delta: bytes, old: bytes) -> bytes:
    try:
        return _Delta(delta, old).run()
    except IndexError as exc:
        raise ValueError("a delta that ends too early") from exc


class _Delta:
    """git's pack delta: two sizes, then copies from the old content and insertions."""

    def __init__(self, delta: bytes, old: bytes) -> None:
        self.delta, self.old, self.at = delta, old, 0

    def byte(self) -> int:
        self.at += 1
        return self.delta[self.at - 1]

    def size(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def run(self) -> bytes:
        if self.size() != len(self.old):
            raise ValueError("a delta on other content")
        size = self.size()
        new = bytearray()
        while self.at < len(self.delta):
            op = self.byte()
            new += self.copy(op) if op & 0x80 else self.insert(op)
            if len(new) > size:
                break
        if len(new) != size:
            raise ValueError("a delta of another size than it says")
        return bytes(new)

    def copy(self, op: int) -> bytes:
        offset = sum(self.byte() << (8 * i) for i in range(4) if op & (1 << i))
        length = sum(self.byte() << (8 * i) for i in range(3) if op & (0x10 << i)) or _COPY_ALL
        if offset + length > len(self.old):
            raise ValueError("a delta that copies beyond the old content")
        return self.old[offset : offset + length]

    def insert(self, length: int) -> bytes:
        if not length or self.at + length > len(self.delta):
            raise ValueError("a delta with a senseless insertion")
        self.at += length
        return self.delta[self.at - length : self.at]


def blob_id(data: bytes, like: str) -> str:
    """Git's id of this content, as long as `like` (abbreviated or not, sha1 or sha256)."""
    kind = hashlib.sha256 if len(like) == 64 else hashlib.sha1  # noqa: PLR2004 - git's own ids
    return kind(b"blob %d\0" % len(data) + data).hexdigest()[: len(like)]
