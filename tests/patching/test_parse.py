"""Every line of a patch has its place, or the patch is refused."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import planning
from lora_training.patching.diff import parse
from lora_training.patching.model import Node
from tests.helpers import git
from tests.patching.conftest import diff_bytes

GOOD = b"""\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
Subject: [PATCH] a change

---
 a.py | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/a.py b/a.py
index 1111111..2222222 100644
--- a/a.py
+++ b/a.py
@@ -1,3 +1,3 @@ def f():
 one
-two
+2

--\x20
2.39.5

"""


def test_a_mail_from_git_format_patch_is_read_whole() -> None:
    patch = parse("p", GOOD)
    assert patch.paths == ("a.py",)
    hunk = patch.changes[0].hunks[0]
    assert (hunk.old, hunk.new) == (b"one\ntwo\n\n", b"one\n2\n\n")


def test_several_mails_in_one_file_are_several_changes() -> None:
    assert len(parse("p", GOOD + GOOD).changes) == 2


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"@@ -1,3 +1,3 @@ def f():", b"@@ -1,3 1,3 @@", "malformed hunk header"),
        (b"@@ -1,3 +1,3 @@ def f():", b"@@@ -1,3 -1,3 +1,3 @@@", "malformed hunk header"),
        (b"@@ -1,3 +1,3 @@ def f():", b"@@ -1,9 +1,9 @@", "inside a hunk|ends inside"),
        (b"@@ -1,3 +1,3 @@ def f():", b"@@ -1,3 +1,1 @@", "longer than its header|inside a hunk"),
        (b"-two\n+2\n", b"-two\n+2\n*oops\n", "inside a hunk"),
        (b"-two\n+2\n", b" two\n two\n", "changes nothing|longer"),
        (b" one\n", b"\\ No newline at end of file\n one\n", "marker after no line"),
        (b" one\n", b" one\n\\ No newline at end of file\n", "before the end"),
        (b"--- a/a.py\n", b"", "belongs to no diff"),
        (b"+++ b/a.py\n", b"", "without `\\+\\+\\+`"),
        (b"@@ -1,3 +1,3 @@ def f():\n one\n-two\n+2\n\n", b"", "without a hunk"),
        (b"index 1111111..2222222 100644\n", b"index zzz\n", "malformed `index`"),
        (b"index 1111111..2222222 100644\n", b"old mode 100644\n", "half of a mode"),
        (b"index 1111111..2222222 100644\n", b"rename from a.py\n", "half of a rename"),
        (b"index 1111111..2222222 100644\n", b"index 1..2\nindex 1..2\n", "two `index`"),
        (b"index 1111111..2222222 100644\n", b"some words\n", "belongs to no diff"),
        (b"diff --git a/a.py b/a.py\n", b"diff --cc a.py\n", "outside any diff"),
        (b"\n-- \n", b"\n and more words\n-- \n", "belongs to no diff"),
        (b"\n", b"\r\n", "CRLF"),
    ],
)
def test_damage_is_refused_with_its_line(old: bytes, new: bytes, words: str) -> None:
    data = GOOD.replace(old, new)
    assert data != GOOD
    with pytest.raises(PatchError, match=rf"p, line \d+: .*({words})"):
        parse("p", data)


@pytest.mark.parametrize("cut", range(GOOD.index(b"@@"), GOOD.index(b"\n-- ")))
def test_a_truncated_hunk_is_refused(cut: int) -> None:
    with pytest.raises(PatchError):
        parse("p", GOOD[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"words only\n",
        b"*** a.py\n--- a.py\n***************\n*** 1 ****\n! a\n--- 1 ----\n! b\n",
        b"1c1\n< a\n---\n> b\n",
        b"Binary files a/x and b/x differ\n",
        b"diff --git a/x b/x\nindex 1..2 100644\nBinary files a/x and b/x differ\n",
        b"diff --git a/x b/x\nindex 1..2 100644\n",
        b"diff --git a/x b/x\nindex 1..2\nGIT binary patch\n",
        b"Only in b: x\n",
    ],
)
def test_what_is_no_unified_diff_is_refused(data: bytes) -> None:
    with pytest.raises(PatchError):
        parse("p", data)


def test_no_line_of_a_hunk_is_lost_whatever_the_damage() -> None:
    """Remove, double or change single lines of a patch: it is refused, or the result has every line of it."""
    dice = random.Random(7)
    lines = GOOD.splitlines(keepends=True)
    for _ in range(2000):
        damaged = list(lines)
        at = dice.randrange(7, len(damaged))
        damaged[at : at + 1] = dice.choice(
            [[], [damaged[at]] * 2, [b"+" + damaged[at]], [b"junk\n"], [damaged[at][1:]]]
        )
        try:
            patch = parse("p", b"".join(damaged))
        except PatchError:
            continue
        read = sum(hunk.old.count(b"\n") + hunk.new.count(b"\n") for change in patch.changes for hunk in change.hunks)
        body = [line for line in damaged if line[:1] in b"+-" and not line.startswith((b"---", b"+++", b"-- "))]
        context = [line for line in damaged[7:] if line.startswith(b" ") and b"|" not in line and b"file" not in line]
        assert read >= len(body) + 2 * len(context)


def test_names_with_spaces_quotes_and_odd_bytes(tmp_path: Path) -> None:
    names = [b"a b.py", b'q"uote', b"tab\there", b"caf\xe9", "ünï".encode(), b"b/b b/b", b"trailing "]
    git("init", "-q", cwd=tmp_path)
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x\n")
    git("add", "-A", cwd=tmp_path)
    for args in (["--cached"], ["--cached", "-R"]):
        paths = parse("p", diff_bytes(tmp_path, *args)).paths
        assert sorted(os.fsencode(path) for path in paths) == sorted(names)


def _file(text: str) -> dict[str, Node | None]:
    return {"f": Node(0o100644, text.encode())}


def _apply(text: str, hunk: str) -> tuple[str, list[int]]:
    outcome = planning.apply(parse("p", f"--- a/f\n+++ b/f\n{hunk}".encode()), _file(text))
    node = outcome.image["f"]
    return node.data.decode() if node else "", [moved.offset for moved in outcome.moved]


def test_a_hunk_is_found_at_an_offset_and_the_offset_is_reported() -> None:
    assert _apply("0\n0\na\nb\nc\n", "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n".replace("-1,3", "-2,3")) == (
        "0\n0\na\nB\nc\n",
        [1],
    )


def test_a_hunk_with_two_places_and_none_at_its_line_is_refused() -> None:
    with pytest.raises(PatchError, match=r"fits in 2 places \(lines 2, 5\)"):
        _apply("0\na\nb\nc\na\nb\nc\n0\n", "@@ -9,3 +9,3 @@\n a\n-b\n+B\n c\n")


def test_a_hunk_with_two_places_goes_to_its_own_line() -> None:
    assert _apply("a\nb\nc\na\nb\nc\n", "@@ -4,3 +4,3 @@\n a\n-b\n+B\n c\n")[0] == "a\nb\nc\na\nB\nc\n"


def test_thousands_of_hunks_that_all_moved_go_in_and_a_line_is_no_hunks_twice() -> None:
    lines = [f"{n}\n" for n in range(30_000)]
    hunks = [f"@@ -{n + 1},3 +{n + 1},3 @@\n {n}\n-{n + 1}\n+new {n}\n {n + 2}\n" for n in range(6, 29_990, 6)]
    text, offsets = _apply("first\nsecond\n" + "".join(lines), "".join(hunks))
    assert set(offsets) == {2}
    assert len(offsets) == len(hunks) == text.count("new ")
    with pytest.raises(PatchError, match="line 6: this hunk of f does not fit"):
        _apply(
            "a\nb\nc",
            "@@ -9 +8,0 @@\n-c\n\\ No newline at end of file\n@@ -9 +8,0 @@\n-c\n\\ No newline at end of file\n",
        )


def test_almost_the_same_context_is_not_enough() -> None:
    with pytest.raises(PatchError, match="does not fit"):
        _apply("a \nb\nc\n", "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n")


def test_a_change_at_the_start_stays_at_the_start() -> None:
    with pytest.raises(PatchError, match="does not fit"):
        _apply("new\na\nb\n", "@@ -1,2 +1,2 @@\n-a\n+A\n b\n")


def test_lines_without_context_are_refused() -> None:
    with pytest.raises(PatchError, match="without context"):
        _apply("a\nb\n", "@@ -1,0 +2 @@\n+x\n")


@pytest.mark.parametrize("text", ["a\nb", "a\nb\n"])
def test_the_end_of_the_last_line_counts(text: str) -> None:
    hunk = "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+B\n"
    if text.endswith("\n"):
        with pytest.raises(PatchError, match="does not fit"):
            _apply(text, hunk)
    else:
        assert _apply(text, hunk)[0] == "a\nB\n"


@pytest.mark.parametrize("line", ["\n", " \n", "-\n", "+\n"])
def test_an_empty_line_without_an_end_is_no_line(line: str) -> None:
    lines = {"\n": (2, 2), " \n": (2, 2), "-\n": (2, 1), "+\n": (1, 2)}[line]
    with pytest.raises(PatchError, match="line 3: a no-newline marker after an empty line"):
        _apply("1\n", f"@@ -1,{lines[0]} +1,{lines[1]} @@\n-1\n+1a\n{line}\\ No newline at end of file\n")


def test_crlf_is_content() -> None:
    assert _apply("a\r\nb\r\n", "@@ -1,2 +1,2 @@\n a\r\n-b\r\n+B\r\n")[0] == "a\r\nB\r\n"
    with pytest.raises(PatchError, match="does not fit"):
        _apply("a\nb\n", "@@ -1,2 +1,2 @@\n a\r\n-b\r\n+B\r\n")
