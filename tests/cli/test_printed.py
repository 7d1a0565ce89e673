"""What stands in files of others reaches no terminal as it is: no escape, no second line, no turned-about text."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import tomli

from lora_training.cli.terminal import Terminal
from lora_training.config import document
from lora_training.launch.spec import LaunchSpec
from lora_training.patching import names
from tests.helpers import ROOT, lora, write

# clears the screen, sets the title, is C1's own escape, turns text about, hides; ends a line and forges another
EVIL = "a\x1b[2J\x1b]0;title\x07\x9b2J\u202etxt\u2066\u200b\x85b\r\nforged: all is well\u2028forged"
CONFIG = """
script = "train_network"
{key} = 1
pretrained_model_name_or_path = {value}
output_dir = "out"
network_module = {value}
[[datasets]]
  [[datasets.subsets]]
  image_dir = {value}
"""


def assert_harmless(*texts: str) -> None:
    for text in texts:
        # a long list of TOML and a document of JSON have lines of their own
        assert all(char.isprintable() or char == "\n" for char in text), repr(text)
        assert "\nforged" not in text
        assert not text.startswith("forged")


def toml(text: str) -> str:
    """As TOML takes it, with nothing but ASCII in it."""
    return json.dumps(text).replace("\x7f", "\\u007f")


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A configuration whose keys and values are hostile."""
    path = tmp_path / "c\x1b[2J.toml"
    path.write_text(CONFIG.format(key=toml(EVIL), value=toml(EVIL)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "command",
    [
        "config check",
        "config check --json",
        "config show",
        "config show --origin",
        "config show --as json",
        "config show --as argv",
        "config show --as argv --origin",
        "config show --as sh",
        "train --dry-run",
        "train",
    ],
)
def test_a_configuration(evil: Path, command: str, tmp_path: Path) -> None:
    said = lora(*command.split(), evil, cwd=tmp_path)
    assert said.out or said.err
    assert_harmless(said.out, said.err)


@pytest.mark.parametrize("args", [["--json"], []])
def test_imported_metadata(tmp_path: Path, args: list[str]) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    metadata = {"ss_output_name": EVIL, "ss_network_module": EVIL, f"ss_{EVIL}": EVIL, "ss_learning_rate": EVIL}
    save_file({"a": np.zeros(1)}, tmp_path / "a.safetensors", metadata)
    said = lora("config", "import", tmp_path / "a.safetensors", *args, cwd=tmp_path)
    assert said.code == 0, said.err
    assert_harmless(said.out, said.err)


def record(folder: Path) -> Path:
    """A run's record that says hostile things."""
    run = {"name": EVIL, "output": EVIL, "config": EVIL, "command": EVIL, "made_by": {EVIL: EVIL}, "started": 1.0}
    run |= {"state": "failed", "why": EVIL, "attempts": [{"log": EVIL, "from_step": 0}], "rerun_of": EVIL}
    write(folder, {"run.json": json.dumps(run), "environment.json": json.dumps({"packages": {"torch": EVIL}})})
    write(folder, {"inputs.json": json.dumps({EVIL: EVIL})})
    return folder


def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"patches/a": "", ".gitmodules": "", "lora_training/a": ""})
    folder = record(tmp_path / "evil.run")
    write(tmp_path / ".lora" / "runs", {"a": f"{folder}\n"})
    monkeypatch.setenv("LORA_HOME", str(tmp_path))
    monkeypatch.delenv("LORA_RUNS")
    for args in (["list"], ["show", folder], ["list", "--json"], ["show", folder, "--json"], ["show", EVIL]):
        said = lora("runs", *args, cwd=tmp_path)
        assert "title" in said.out + said.err
        assert_harmless(said.out, said.err)


def test_usage(tmp_path: Path) -> None:
    for args in ([f"--{EVIL}"], [EVIL], ["config", "check", EVIL], ["train", EVIL, f"--{EVIL}"]):
        said = lora(*args, cwd=tmp_path)
        assert said.code
        assert "\x1b" not in said.err


def test_patches_and_trees(tmp_path: Path) -> None:
    tree = tmp_path / "t\x1b[2J"
    write(tree, {"a": "1\n"})
    name = json.dumps("b/x\x1b[2J\r\nforged").replace("\\u001b", "\\033")
    text = f"diff --git {name} {name}\n--- a/a\n+++ {name}\n@@ -1 +1 @@\n-1\n+2\n"
    (tmp_path / "evil\x1b[2J.patch").write_text(text, encoding="utf-8")
    for args in (["apply"], ["verify"], ["apply", "--json"]):
        said = lora("patch", *args, "--tree", tree, "--patch", tmp_path / "evil\x1b[2J.patch", cwd=tmp_path)
        assert said.code
        assert_harmless(said.out, said.err)


def test_what_the_training_process_says(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(verbose=True)
    terminal.line(EVIL)
    terminal.note(EVIL)
    terminal.event({"event": "skipped", "step": 1, "images": [EVIL]})
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    assert_harmless(said)


def on_a_terminal(code: str) -> str:
    """Return the output of a Python program on a terminal."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, cwd=ROOT, stderr=theirs, stdout=theirs, env={**os.environ, "TERM": "xterm"}):
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 1000):
                said += chunk
        except OSError:
            pass
    os.close(ours)
    return said.decode()


def test_the_live_line_keeps_its_own_escapes_alone() -> None:
    code = f"from lora_training.cli.output import ProgressLine as P; p = P(); p({EVIL!r}); p.close()"
    said = on_a_terminal(code)
    assert said.startswith("\r\x1b[Ka\\x1b[2J")
    assert said.endswith("\r\x1b[K")
    assert "\x1b" not in said.removeprefix("\r\x1b[K").removesuffix("\r\x1b[K")
    code = f"from lora_training.cli.terminal import Terminal as T; t = T(verbose=True); t.line({EVIL!r}); t.close()"
    said = on_a_terminal(code)
    assert "a\\x1b[2J" in said
    assert "\x1b[2J" not in said
    assert "\x1b]0" not in said


def test_every_line_goes_through_the_filter() -> None:
    """`click.echo` alone is for whole documents, whose own format escapes hidden characters."""
    for path in (ROOT / "lora_training" / "cli").glob("*.py"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if "click.echo(" in line]
        assert [line for line in lines if "nl=False" not in line] == [] or path.name == "output.py", path.name


@pytest.mark.parametrize("word", [EVIL, "\x1b1", "a b\n", "it's\\\t\x01", "日本 語", "\udc9bx", "plain"])
def test_a_shell_takes_what_is_shown_for_the_very_same_word(tmp_path: Path, word: str) -> None:
    show = "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]) + b'|' + os.environb[b'A'])"
    line = LaunchSpec((sys.executable, "-c", show, word), {"A": word}, tmp_path).shell()
    assert_harmless(line)
    assert "\n" not in line
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word) + b"|" + os.fsencode(word)


def test_toml_holds_every_character_and_shows_none_that_is_hidden() -> None:
    every = "".join(map(chr, [*range(0x3000), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0100)]))
    written = document.toml({"a": every})
    assert tomli.loads(written) == {"a": every}
    assert not {char for char in written if char != "\n"} & {
        *map(chr, range(0x20)),
        *map(chr, range(0x7F, 0xA0)),
        *"\u202e\u2066\u200b",
    }


def test_names_of_other_scripts_are_shown_as_they_are() -> None:
    for name in ("日本　語.png", "é\u00a0b", "क्\u200dष", "👩\u200d🚀"):
        assert names.shown(name) == name
