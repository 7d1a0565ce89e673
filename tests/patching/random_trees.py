"""Random trees and random changes to them, the same for the same seed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

_NAMES = [
    b"a",
    b"b.py",
    b"with space.txt",
    b'quo"te',
    b"tab\there",
    b"\xff\xfe.bin",
    "ünï.md".encode(),
    b"-dash",
    b"x.orig",
]
_PLAIN = [b"a", b"b.py", b"with space.txt", "ünï.md".encode(), b"c", b"d"]
_FOLDERS = [b"", b"lib/", b"lib/deep er/", b"a b/", b"z/"]
_ENDS = [b"\n", b"\n", b"\n", b"\r\n"]


class Maker:
    """Makes and changes files below `root`."""

    def __init__(self, root: Path, seed: int, *, plain: bool = False) -> None:
        """`plain`: only changes that a diff without git's extensions can express."""
        self.plain = plain
        self.root = os.fsencode(root)
        self.random = random.Random(seed)

    def fill(self) -> None:
        for _ in range(self.random.randint(1, 8)):
            self.create()

    def change(self) -> None:
        for _ in range(self.random.randint(1, 6)):
            kinds = [
                self.create,
                self.edit,
                self.edit,
                self.edit,
                self.delete,
                self.rename,
                self.copy,
                self.mode,
                self.swap,
            ]
            self.random.choice(kinds)()

    def files(self) -> list[bytes]:
        found = [os.path.join(base, name) for base, _, names in os.walk(self.root) for name in names]
        return sorted(path for path in found if b"/.git/" not in path)

    def regular(self) -> bytes | None:
        found = [path for path in self.files() if not os.path.islink(path)]
        return self.random.choice(found) if found else None

    def fresh(self) -> bytes | None:
        names = _PLAIN if self.plain else _NAMES
        path = os.path.join(self.root, self.random.choice(_FOLDERS) + self.random.choice(names))
        parent = os.path.dirname(path)
        if os.path.lexists(path) or (os.path.lexists(parent) and not os.path.isdir(parent)):
            return None
        os.makedirs(parent, exist_ok=True)
        return path

    def create(self) -> None:
        path = self.fresh()
        if path is None:
            return
        if self.random.random() < 0.1 and not self.plain:
            os.symlink(self.random.choice([b"a", b"lib", b"nowhere at all"]), path)
            return
        with open(path, "wb") as file:
            file.write(self.content())
        if self.random.random() < 0.2 and not self.plain:
            os.chmod(path, 0o755)

    def content(self) -> bytes:
        kind = self.random.random()
        if kind < 0.1:
            return b""
        if kind < 0.25 and not self.plain:
            return self.random.randbytes(self.random.randint(1, 3000))
        end = self.random.choice(_ENDS)
        lines = [self.line() + end for _ in range(self.random.randint(1, 60))]
        data = b"".join(lines)
        return data[: -len(end)] if self.random.random() < 0.2 else data

    def line(self) -> bytes:
        return self.random.choice(
            [b"", b"}", b"x = %d" % self.random.randint(0, 99), b"--- a/x", b"+++ b", b"@@ -1 +1 @@", b"caf\xe9"]
        )

    def edit(self) -> None:
        path = self.regular()
        if path is None:
            return
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randrange(len(lines) + 1)
            lines[at : at + self.random.randint(0, 2)] = [self.line() for _ in range(self.random.randint(0, 2))]
        with open(path, "wb") as file:
            file.write(b"\n".join(lines))

    def delete(self) -> None:
        files = self.files()
        if not files:
            return
        path = self.random.choice(files)
        os.unlink(path)
        while (path := os.path.dirname(path)) != self.root and not os.listdir(path):
            os.rmdir(path)

    def rename(self) -> None:
        old, new = self.regular(), self.fresh()
        if old and new:
            os.rename(old, new)
            self.prune(os.path.dirname(old))

    def prune(self, path: bytes) -> None:
        while path != self.root and not os.listdir(path):
            os.rmdir(path)
            path = os.path.dirname(path)

    def copy(self) -> None:
        old, new = self.regular(), self.fresh()
        if old and new:
            shutil.copy2(old, new)

    def swap(self) -> None:
        one, two = self.regular(), self.regular()
        if one and two and one != two:
            os.rename(one, one + b".swap")
            os.rename(two, one)
            os.rename(one + b".swap", two)

    def mode(self) -> None:
        path = self.regular()
        if path:
            os.chmod(path, os.stat(path).st_mode ^ 0o111)
