"""A record or an output that somebody filled with links and pipes: nothing outside is written, and nothing waits."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from lora_training import cli, files
from lora_training.runtime import events
from lora_training.supervise import attempt, record
from tests.helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMOKE = ROOT / "configs" / "smoke.toml"
MINE = "what was mine before\n"
IN_RECORD = (
    *("lock", "run.json", ".run.json.partial", "config.toml", "command.sh", "dataset.json", "inputs.json"),
    *("environment.json", "events.jsonl", "attempt-1.log", "attempt-7.log", "stop", "tensors.json", "lora-resume-1.pt"),
)
OUTPUTS = ("cats.safetensors", "cats-step00000010.safetensors", "cats-000002.safetensors")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine"
    file.write_text(MINE)
    return file


def train(output: Path) -> int:
    sets = ("--set", f"output_dir={output}", "--set", "output_name=cats")
    return cli.run(["train", str(SMOKE), *sets])


def refused(output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that `lora train` refuses to write there with."""
    assert train(output) == 3
    return capsys.readouterr().err.split("error: ")[1].splitlines()[0]


@pytest.mark.usefixtures("sd_scripts")
@pytest.mark.parametrize("name", [name for name in IN_RECORD if name != "stop"])
def test_a_link_in_a_record_is_not_written_through(
    tmp_path: Path, mine: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out" / "cats.run"
    folder.mkdir(parents=True)
    (folder / name).symlink_to(mine)
    assert refused(tmp_path / "out", capsys) == (
        f"{folder / name} is a symbolic link, and nothing is written through it"
    )
    assert mine.read_text() == MINE


@pytest.mark.usefixtures("sd_scripts")
@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_lora_that_is_a_link_is_not_written_through(
    tmp_path: Path, mine: Path, name: str, capsys: pytest.CaptureFixture[str], *, is_dangling: bool
) -> None:
    (tmp_path / "out").mkdir()
    target = tmp_path / "new" if is_dangling else mine
    (tmp_path / "out" / name).symlink_to(target)
    assert f"{name} is a symbolic link" in refused(tmp_path / "out", capsys)
    assert mine.read_text() == MINE
    assert target.exists() != is_dangling


@pytest.mark.usefixtures("sd_scripts")
def test_a_record_that_is_a_link_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "cats.run").symlink_to(tmp_path / "elsewhere")
    assert "cats.run is a symbolic link" in refused(tmp_path / "out", capsys)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.usefixtures("sd_scripts")
@pytest.mark.parametrize("name", ["lock", "run.json", "events.jsonl", "cats.safetensors"])
def test_a_pipe_among_the_files_is_refused_and_not_waited_for(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out" / "cats.run"
    folder.mkdir(parents=True)
    os.mkfifo(folder.parent / name if name.startswith("cats") else folder / name)
    assert f"{name} is no regular file" in refused(tmp_path / "out", capsys)


def test_a_stop_file_that_is_a_link_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cats.run"
    folder.mkdir()
    record.Record("cats", "c", str(tmp_path / "cats.safetensors"), "x", {}).save(folder)
    with record.alone(folder):
        (folder / record.STOP).symlink_to(tmp_path / "new")
        assert cli.run(["runs", "stop", str(folder)]) == 1
    assert f"cannot write to {folder}: it is a symbolic link" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def emit(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(events.VARIABLE, str(path))
        events.emit("step", step=1)


def look(path: Path) -> None:
    attempt.Tail(path, print).close()


WRITERS: dict[str, Callable[[Path], Any]] = {
    "document": lambda path: files.write(path, "x"),
    "empty file": files.touch,
    "supervisor's event": lambda path: record.append_event(path, "closed"),
    "training's event": emit,
    "reader of events": look,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_that_appears_while_a_run_is_going_is_not_written_through(
    tmp_path: Path, mine: Path, writer: str
) -> None:
    for target in (mine, tmp_path / "new"):
        link = tmp_path / f"link to {target.name}"
        link.symlink_to(target)
        with contextlib.suppress(OSError):
            WRITERS[writer](link)
    assert mine.read_text() == MINE
    assert not (tmp_path / "new").exists()


def test_a_document_replaces_a_link_and_what_lies_under_its_partial_name(tmp_path: Path, mine: Path) -> None:
    for name in ("a.json", ".a.json.partial"):
        (tmp_path / name).symlink_to(mine)
    files.write(tmp_path / "a.json", "new")
    assert (mine.read_text(), (tmp_path / "a.json").read_text()) == (MINE, "new")
    assert not (tmp_path / "a.json").is_symlink()
