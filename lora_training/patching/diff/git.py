"""Read sections that begin with `diff --git`."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

from lora_training.patching import names
from lora_training.patching.diff import binary
from lora_training.patching.diff.unified import Reader
from lora_training.patching.model import MODES, Action, Binary, Change, Hunk

if TYPE_CHECKING:
    from lora_training.patching.diff.guard import Section

_INDEX = re.compile(rb"([0-9a-f]+)\.\.([0-9a-f]+)(?: (\d+))?")
_PERCENT = re.compile(rb"\d{1,3}%")
_KEYS = (
    b"old mode",
    b"new mode",
    b"deleted file mode",
    b"new file mode",
    b"copy from",
    b"copy to",
    b"rename from",
    b"rename to",
    b"similarity index",
    b"dissimilarity index",
    b"index",
)
_ACTIONS: dict[Action, tuple[bytes, ...]] = {
    "create": (b"new file mode",),
    "delete": (b"deleted file mode",),
    "rename": (b"rename from", b"rename to"),
    "copy": (b"copy from", b"copy to"),
}
_BOTH_WAYS = 2


class GitReader(Reader):
    """Reads one git section, removing `levels` folders from `a/...` and one fewer from the extended headers' names."""

    def __init__(self, name: str, section: Section, levels: int) -> None:
        super().__init__(name, section)
        self.levels = levels
        self.meta = self._meta()

    def change(self, hunks: tuple[Hunk, ...]) -> Change:
        """Read the section."""
        action = self._action()
        old, new = self._moved(action) if action in {"rename", "copy"} else (self._same_name(),) * 2
        self._check_agreement(action, (old, new))
        old_mode, new_mode = self._modes(action)
        old_id, new_id, _ = self._index()
        forward, backward = self._binaries()
        return Change(action, old, new, self.section.line, hunks, old_mode, new_mode, old_id, new_id, forward, backward)

    def _meta(self) -> dict[bytes, bytes]:
        meta: dict[bytes, bytes] = {}
        for number, line in self.section.meta:
            key = next(k for k in _KEYS if line.startswith(k + b" "))
            value = line[len(key) + 1 :].rstrip(b"\n")
            if key in meta:
                raise self.refuse(f"two `{key.decode()}` lines", line=number)
            if value.endswith(b"\r"):
                raise self.refuse("CRLF in git's own lines", line=number, hint="the patch was converted")
            if key.endswith(b"similarity index") and not _PERCENT.fullmatch(value):
                raise self.refuse(f"a malformed `{key.decode()}` line", line=number)
            meta[key] = value
        return meta

    def _action(self) -> Action:
        found = [action for action, keys in _ACTIONS.items() if any(key in self.meta for key in keys)]
        if len(found) > 1:
            raise self.refuse(f"a section that says both {found[0]} and {found[1]}")
        action = found[0] if found else "modify"
        if found and not all(key in self.meta for key in _ACTIONS[action]):
            raise self.refuse(f"half of a {action}")
        return action

    # names

    def _moved(self, action: Action) -> tuple[str, str]:
        old, new = (self._bare(key) for key in _ACTIONS[action])
        return old, new

    def _bare(self, key: bytes) -> str:
        name = self.name_text(self.meta[key])
        names.check(name, self.where)
        stripped = names.strip(name, max(self.levels - 1, 0))
        if stripped is None:
            raise self.refuse(f"`{key.decode()}` names nothing after stripping")
        return stripped

    def _same_name(self) -> str:
        """The name of the changed file: from `a/NAME b/NAME` where both are the same, else from `---` and `+++`."""
        left, right = self._halves()
        found = {left} if left and left == right else {name for name in self._headers() if name}
        if len(found) != 1:
            raise self.refuse("the section does not name one file", hint="renames need `rename from` and `rename to`")
        return found.pop()

    def _halves(self) -> tuple[str | None, str | None]:
        """The two names in `diff --git a/NAME b/NAME`, stripped."""
        line = (self.section.git or b"")[len(b"diff --git ") :].rstrip(b"\n")
        if line.startswith(b'"'):
            left, rest = self.unquote(line)
            right = self.name_text(rest.lstrip(b" "))
        elif line.endswith(b'"') and b' "' in line:
            bare, _, quoted = line.partition(b' "')
            left, right = names.text(bare), self.name_text(b'"' + quoted)
        else:
            middle = _middle(line, self.levels)
            if line[middle : middle + 1] != b" ":
                return None, None
            left, right = names.text(line[:middle]), names.text(line[middle + 1 :])
        return self._stripped(left), self._stripped(right)

    def _stripped(self, name: str) -> str | None:
        return names.strip(self.possible(name), self.levels)

    def _headers(self) -> list[str | None]:
        """The names in `---` and `+++`, stripped; None for `/dev/null` or no line."""
        lines = (self.section.old, self.section.new)
        said = [names.DEV_NULL if line is None else self.header_name(line) for line in lines]
        return [None if name == names.DEV_NULL else self._stripped(name) for name in said]

    def _check_agreement(self, action: Action, pair: tuple[str, str]) -> None:
        """Raise PatchError unless `---` and `+++` agree with the lines above them."""
        if self.section.old is None:
            return
        headers = self._headers()
        if (headers[0] is None) != (action == "create") or (headers[1] is None) != (action == "delete"):
            raise self.refuse("`/dev/null` does not go with what the section says it does")
        for said, name in zip(headers, pair, strict=True):
            if said is not None and said != name:
                raise self.refuse(f"two names for one file: {names.shown(name)} and {names.shown(said)}")

    # modes, ids and binaries

    def _modes(self, action: Action) -> tuple[int | None, int | None]:
        if (b"old mode" in self.meta) != (b"new mode" in self.meta):
            raise self.refuse("half of a mode change")
        old = self._mode(b"deleted file mode") or self._mode(b"old mode") or self._index()[2]
        new = self._mode(b"new file mode") or self._mode(b"new mode")
        return (None, new) if action == "create" else (old, new)

    def _mode(self, key: bytes) -> int | None:
        return self._as_mode(self.meta[key]) if key in self.meta else None

    def _as_mode(self, said: bytes) -> int:
        mode = int(said, 8) if re.fullmatch(rb"[0-7]+", said) else -1
        if mode not in MODES:
            kind = "a submodule" if said == b"160000" else "nothing that a patch may make"
            raise self.refuse(f"mode {said.decode('latin-1')} is {kind}")
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
            parts: list[Binary | None] = [binary.decode(header, body) for header, body in self.section.binaries]
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
