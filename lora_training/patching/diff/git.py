"""Read sections that begin with `diff --git`, and apply git's binary patches."""

from __future__ import annotations

import hashlib
import os
import re
import string
from bisect import bisect_left

from lora_training.errors import PatchError
from lora_training.patching import names
from lora_training.patching.diff.guard import META, SUBMODULE, Section
from lora_training.patching.diff.unified import MOST_LEVELS, Reader
from lora_training.patching.model import MODES, Action, Binary, Change, Hunk

_INDEX = re.compile(rb"([0-9a-f]+)\.\.([0-9a-f]+)(?: (\d+))?")
_PERCENT = re.compile(rb"\d{1,3}%")
_ACTIONS: dict[Action, tuple[bytes, ...]] = {
    "create": (b"new file mode",),
    "delete": (b"deleted file mode",),
    "rename": (b"rename from", b"rename to"),
    "copy": (b"copy from", b"copy to"),
}
_TWO_NAMES = (*_ACTIONS["rename"], *_ACTIONS["copy"])
# Written by early versions of git.
_OLD_MODES = {b"100664": b"100644"}
_BOTH_WAYS = 2
_BINARY = re.compile(rb"(literal|delta) (\d+)\n")
# The largest binary content that a patch may state, so that a hostile one cannot fill the memory.
_LARGEST = 1 << 30
# A line of a binary patch begins with its length: A is 1 byte, z is 52.
_LENGTHS = string.ascii_letters.swapcase().encode()
_SHA256_LENGTH = 64


class GitReader(Reader):
    """Reads one git section, removing `levels` folders from `a/...` and one fewer from the extended headers' names."""

    def __init__(self, name: str, section: Section, levels: int) -> None:
        super().__init__(name, section)
        self.levels = levels
        self.meta = self._meta()

    def change(self, hunks: tuple[Hunk, ...]) -> Change:
        """Read the section."""
        action = self._action()
        if action in {"rename", "copy"}:
            old, new = (self._bare(key) for key in _ACTIONS[action])
        else:
            found = self._names()
            if len(found) != 1:
                raise self._not_one(found)
            old = new = found.pop()
        self._check_agreement(action, (old, new))
        old_mode, new_mode = self._modes(action)
        old_id, new_id, _ = self._index()
        forward, backward = self._binaries()
        return Change(action, old, new, self.section.line, hunks, old_mode, new_mode, old_id, new_id, forward, backward)

    def _meta(self) -> dict[bytes, bytes]:
        meta: dict[bytes, bytes] = {}
        for number, line in self.section.meta:
            key = next(k for k in META if line.startswith(k + b" "))
            value = line[len(key) + 1 :].rstrip(b"\n")
            if key in meta:
                raise self.refuse(f"two `{key.decode()}` lines", line=number)
            if value.endswith(b"\r"):
                raise self.refuse("CRLF in git's own lines", line=number, hint="the patch was converted")
            if not value:
                raise self.refuse(f"a `{key.decode()}` line without a value", line=number)
            if key.endswith(b"similarity index") and not _PERCENT.fullmatch(value):
                raise self.refuse(f"a malformed `{key.decode()}` line", line=number)
            meta[key] = value
        return meta

    def _action(self) -> Action:
        found = [action for action, keys in _ACTIONS.items() if any(key in self.meta for key in keys)]
        if len(found) > 1:
            raise self.refuse(f"a section that says both {found[0]} and {found[1]}")
        if found and not all(key in self.meta for key in _ACTIONS[found[0]]):
            raise self.refuse(f"half of a {found[0]}")
        return found[0] if found else "modify"

    # names

    def _bare(self, key: bytes) -> str:
        name = self.name_text(self.meta[key])
        names.check(name, self.where)
        stripped = names.strip(name, max(self.levels - 1, 0))
        if stripped is None:
            raise self.nothing_left(name, self.levels)
        return stripped

    def _names(self) -> set[str]:
        """Return the changed file's names: from `a/NAME b/NAME` where both are the same, else from `---` and `+++`."""
        left, right = self._halves()
        return {left} if left and left == right else {name for name in self._headers() if name}

    def agrees(self, levels: int) -> bool:
        """Whether the section names one file after that many folders are stripped, and use that number from now on."""
        self.levels = levels
        return any(key in self.meta for key in _TWO_NAMES) or len(self._names()) == 1

    def _not_one(self, found: set[str]) -> PatchError:
        levels = self.levels
        wanted = next((n for n in range(MOST_LEVELS) if self.agrees(n)), None)
        if wanted is not None and wanted < levels:
            return self.nothing_left((self.section.git or b"").decode("utf-8", "replace")[11:].strip(), levels)
        hint = "a rename needs `rename from` and `rename to`"
        if self.section.old and self.section.new:
            hint = f"give its `---` and `+++` line the name of the file to patch; {hint}"
        if wanted is not None:
            hint = f"its names agree after {wanted} folders are stripped: `--strip {wanted}`, which goes with --tree"
        more = f": {' and '.join(names.shown(name) for name in sorted(found))}" if found else ""
        return self.refuse(f"the section does not name one file{more}", hint=hint)

    def _halves(self) -> tuple[str | None, str | None]:
        """Return the two names in `diff --git a/NAME b/NAME`, stripped."""
        line = (self.section.git or b"")[len(b"diff --git ") :].rstrip(b"\n")
        if line.startswith(b'"'):
            left, rest = self.unquote(line)
            right = self.name_text(rest.lstrip(b" "))
        elif line.endswith(b'"') and b' "' in line:
            bare, _, quoted = line.partition(b' "')
            left, right = os.fsdecode(bare), self.name_text(b'"' + quoted)
        else:
            middle = _middle(line, self.levels)
            if line[middle : middle + 1] != b" ":
                return None, None
            left, right = os.fsdecode(line[:middle]), os.fsdecode(line[middle + 1 :])
        return self._stripped(left), self._stripped(right)

    def _stripped(self, name: str) -> str | None:
        return names.strip(self.possible(name), self.levels)

    def _headers(self) -> list[str | None]:
        """Return the names in `---` and `+++`, stripped; None for `/dev/null` or no line."""
        lines = (self.section.old, self.section.new)
        found = [names.DEV_NULL if line is None else self.header_name(line) for line in lines]
        return [None if name == names.DEV_NULL else self._stripped(name) for name in found]

    def _check_agreement(self, action: Action, pair: tuple[str, str]) -> None:
        """Raise PatchError unless `---` and `+++` agree with the lines above them."""
        if self.section.old is None:
            return
        headers = self._headers()
        if (headers[0] is None) != (action == "create") or (headers[1] is None) != (action == "delete"):
            raise self.refuse("`/dev/null` does not go with what the section says it does")
        for header, name in zip(headers, pair, strict=True):
            if header is not None and header != name:
                raise self.refuse(f"two names for one file: {names.shown(name)} and {names.shown(header)}")

    # modes, ids and binaries

    def _modes(self, action: Action) -> tuple[int | None, int | None]:
        if (b"old mode" in self.meta) != (b"new mode" in self.meta):
            raise self.refuse("half of a mode change")
        old = self._mode(b"deleted file mode") or self._mode(b"old mode") or self._index()[2]
        new = self._mode(b"new file mode") or self._mode(b"new mode")
        return (None, new) if action == "create" else (old, new)

    def _mode(self, key: bytes) -> int | None:
        return self._as_mode(self.meta[key]) if key in self.meta else None

    def _as_mode(self, octal: bytes) -> int:
        octal = _OLD_MODES.get(octal, octal)
        mode = int(octal, 8) if re.fullmatch(rb"[0-7]+", octal) else -1
        if octal == b"160000":
            raise self.refuse("mode 160000 is a submodule", hint=SUBMODULE)
        if mode not in MODES:
            what = f"mode {octal.decode('latin-1')} is nothing that a patch may make"
            raise self.refuse(what, hint="a file has mode 100644 or 100755, a symbolic link 120000")
        return mode

    def _index(self) -> tuple[str, str, int | None]:
        if b"index" not in self.meta:
            return "", "", None
        match = _INDEX.fullmatch(self.meta[b"index"])
        if not match:
            raise self.refuse("a malformed `index` line")
        return match[1].decode(), match[2].decode(), self._as_mode(match[3]) if match[3] else None

    def _binaries(self) -> tuple[Binary | None, Binary | None]:
        if len(self.section.binaries) > _BOTH_WAYS:
            raise self.refuse("a binary patch with more than two parts")
        try:
            parts: list[Binary | None] = [_decode(header, body) for header, body in self.section.binaries]
        except ValueError as exc:
            raise self.refuse(str(exc)) from exc
        forward, backward = [*parts, None, None][:_BOTH_WAYS]
        return forward, backward


def _middle(line: bytes, levels: int) -> int:
    """The place to split a line into two names, which may contain spaces: both sides have the same length there."""
    start = _strip(line, 0, levels)
    places = range(start, len(line))
    return start + bisect_left(places, len(line) + start, key=lambda cut: cut + _strip(line, cut + 1, levels))


def _strip(line: bytes, at: int, levels: int) -> int:
    """The start of the name at `at` after stripping; past the end of the line when it has too few folders."""
    for _ in range(levels):
        at = line.find(b"/", at) + 1
        if not at:
            return 2 * len(line) + 1
    return at


def _decode(header: bytes, lines: list[bytes]) -> Binary:
    """Decode one direction of a binary patch. Raises ValueError when it is damaged."""
    import zlib

    match = _BINARY.fullmatch(header)
    if not match or int(match[2]) > _LARGEST:
        raise ValueError("a binary patch with a senseless size")
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(b"".join(map(_decode_line, lines)), int(match[2]) + 1)
    except zlib.error as exc:
        raise ValueError("a binary patch that does not inflate") from exc
    if len(data) != int(match[2]) or not inflater.eof or inflater.unused_data:
        raise ValueError("a binary patch of another size than it says")
    return Binary("literal" if match[1] == b"literal" else "delta", data)


def _decode_line(line: bytes) -> bytes:
    import base64

    length, data = _LENGTHS.index(line[0]) + 1, base64.b85decode(line[1:].rstrip(b"\n"))
    if not length <= len(data) < length + 4:
        raise ValueError("a damaged line in a binary patch")
    return data[:length]


def binary_content(binary: Binary, old: bytes) -> bytes:
    """Return the new content. Raises ValueError when a delta does not fit `old`; the caller checks the blob id."""
    if binary.method == "literal":
        return binary.payload
    from gitdb.fun import apply_delta_data, msb_size

    parts: list[bytes] = []
    try:
        at, size = msb_size(binary.payload)
        at, _ = msb_size(binary.payload, at)
        if size != len(old):
            raise ValueError("a delta on other content")
        apply_delta_data(old, len(old), binary.payload[at:], len(binary.payload) - at, parts.append)
    except (AssertionError, IndexError) as exc:
        raise ValueError("a damaged delta") from exc
    return b"".join(parts)


def blob_id(data: bytes, like: str) -> str:
    """Return git's id of this content, as long as `like` (abbreviated or not, sha1 or sha256)."""
    kind = hashlib.sha256 if len(like) == _SHA256_LENGTH else hashlib.sha1
    return kind(b"blob %d\0" % len(data) + data).hexdigest()[: len(like)]
