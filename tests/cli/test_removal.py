"""`lora runs rm` and `lora runs prune`: what they remove, what they leave, and what they ask."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from lora_training import cli, manifest, workspace
from lora_training.supervise import record
from tests.cli.test_runs import keep

STATE = "a-step00000010-state"


def state(output: Path, made_by: dict[str, str] | None = None, name: str = STATE) -> Path:
    """A saved state of the run "a" in that folder."""
    folder = output / name
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    manifest.write(folder, step=10, made_by=made_by or {})
    return folder


@pytest.fixture
def output(here: workspace.Workspace) -> Path:
    """The output folder of a complete run "a", with a LoRA, a checkpoint, a state, and files of another run."""
    folder = keep(here, "out").parent
    for name in ("a.safetensors", "a-step00000010.safetensors", "ab.safetensors", "ab.toml"):
        (folder / name).touch()
    state(folder)
    state(folder, name="ab-state")
    return folder


def left(output: Path) -> set[str]:
    return {path.name for path in output.iterdir()}


LORA = {"a.safetensors", "a-step00000010.safetensors"}
OTHERS = {"ab.safetensors", "ab.toml", "ab-state"}


def test_its_states_and_its_record_go_and_the_lora_stays(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["runs", "rm", "a", "--yes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["removed"][0]["paths"] == [str(output / STATE), str(output / "a.run")]
    assert left(output) == LORA | OTHERS
    assert cli.run(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": [], "gone": [], "damaged": [], "waiting": []}


def test_the_lora_goes_when_it_is_named(output: Path) -> None:
    assert cli.run(["runs", "rm", "a", "--lora", "--yes"]) == 0
    assert left(output) == OTHERS


def test_the_states_alone(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = sum(path.stat().st_size for path in (output / STATE).iterdir())
    assert cli.run(["runs", "rm", "a", "--states", "--yes"]) == 0
    assert left(output) == LORA | OTHERS | {"a.run"}
    assert capsys.readouterr().out == f"a: removed {output / STATE}\n{size / 1000:.3g} kB freed\n"
    assert cli.run(["runs", "rm", "a", "--states", "--lora"]) == 2


def test_a_running_run_is_never_removed(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(output)
    with record.alone(output / "a.run"):
        assert cli.run(["runs", "rm", "a", "--yes"]) == 1
        assert "error: a is running\nhint: end it first: `lora runs stop a`\n" in capsys.readouterr().err
        assert cli.run(["runs", "prune", "--states", "--yes"]) == 0
    assert left(output) == before


def test_a_state_that_a_run_began_with_and_one_of_another_configuration_stay(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.keep(output / STATE)
    another = state(output, {"config": "x"}, name="a-state")
    assert cli.run(["runs", "rm", "a", "--yes"]) == 0
    said = capsys.readouterr().out
    assert f"{output / STATE} stays (another run was started from it; `lora runs rm {output / STATE}` removes" in said
    assert f"{another} stays (another configuration made it)" in said
    assert left(output) >= {STATE, "a-state"}
    assert not (output / "a.run").exists()


def test_a_state_that_a_run_began_with_goes_when_it_is_named_and_that_run_is_not_running(
    output: Path, here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.keep(output / STATE)
    longer = keep(here, "longer")
    path = longer / record.RECORD
    start = {"path": str(output / STATE), "step": 10, "sha256": ""}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"start": start}))
    assert cli.run(["runs", "prune", "--states", "--yes"]) == 0
    assert f"a: {output / STATE} stays (another run was started from it; `lora runs rm" in capsys.readouterr().out
    with record.alone(longer):
        assert cli.run(["runs", "rm", str(output / STATE), "--yes"]) == 1
    assert (output / STATE).exists()
    before = left(output)
    assert cli.run(["runs", "rm", str(output / STATE), "--yes"]) == 0
    assert before - left(output) == {STATE, f"{STATE}.kept"}


def test_a_run_that_lost_its_record_is_listed_as_damaged_and_removed_by_its_name(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (output / "a.run" / record.RECORD).unlink()
    assert cli.run(["runs", "list"]) == 0
    assert capsys.readouterr().out == f"a: damaged, {output / 'a.run'} has no record that can be read\n"
    assert cli.run(["runs", "show", "a"]) == 1
    assert "the run 'a' is damaged" in (said := capsys.readouterr().err)
    assert "`lora runs rm a` removes that folder" in said
    before = left(output)
    assert cli.run(["runs", "rm", "a", "--lora", "--yes"]) == 1
    assert left(output) == before
    assert cli.run(["runs", "rm", "a", "--yes"]) == 0
    assert before - left(output) == {"a.run"}


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_on_a_terminal_it_shows_what_goes_and_asks(
    output: Path, answer: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert cli.run(["runs", "rm", "a"]) == code
    said = capsys.readouterr().err
    assert (
        f"to remove: {output / STATE}\nto remove: {output / 'a.run'}\nstays:     {output / 'a.safetensors'} (" in said
    )
    assert (output / "a.run").exists() == (code == 1)


def test_where_nobody_can_be_asked_nothing_is_removed(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = left(output)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert cli.run(["runs", "rm", "a"]) == 2
    assert "error: without a terminal there is nobody to ask: give --yes to remove all this" in capsys.readouterr().err
    assert cli.run(["runs", "prune", "--states"]) == 2
    assert left(output) == before


def test_of_two_runs_of_one_name_none_is_removed(
    output: Path, here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    other = keep(here, "other")
    assert cli.run(["runs", "rm", "a", "--yes"]) == 1
    assert "there are 2 runs 'a'\nhint: name one by its folder" in capsys.readouterr().err
    assert cli.run(["runs", "rm", str(other), "--yes"]) == 0
    assert ((output / "a.run").exists(), other.exists()) == (True, False)


def test_a_record_cannot_have_files_elsewhere_removed(output: Path, here: workspace.Workspace) -> None:
    precious = here.root / "precious.safetensors"
    precious.touch()
    path = output / "a.run" / record.RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"output": str(precious)}))
    assert cli.run(["runs", "rm", str(output / "a.run"), "--lora", "--yes"]) == 0
    assert precious.exists()
    assert left(output) == LORA | OTHERS | {STATE}


def test_nothing_is_removed_through_a_link(output: Path, here: workspace.Workspace) -> None:
    elsewhere = state(here.root, name="elsewhere")
    (output / "a-state").symlink_to(elsewhere)
    assert cli.run(["runs", "rm", "a", "--lora", "--yes"]) == 3
    assert (left(output) >= LORA | {STATE}, (elsewhere / manifest.NAME).exists()) == (True, True)


def test_a_folder_that_cannot_be_changed_is_told(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    assert cli.run(["runs", "rm", "a", "--yes"]) == 1
    assert f"error: cannot remove {output / STATE}: Permission denied\n" in capsys.readouterr().err


def test_prune_clears_the_list_of_runs_without_a_folder_and_on_demand_the_states_of_complete_runs(
    output: Path, here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = keep(here, "gone")
    (here.root / "gone").rename(here.root / "elsewhere")
    failed = keep(here, "failed")
    path = failed / record.RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "failed"}))
    resumable = state(failed.parent)
    assert cli.run(["runs", "prune", "--yes"]) == 0
    assert capsys.readouterr().out == f"a: off the list, its folder {gone} is gone\n"
    assert (output / STATE).exists()
    assert cli.run(["runs", "prune", "--states", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"][0]["paths"] == [str(output / STATE)]
    assert left(output) == LORA | OTHERS | {"a.run"}
    assert resumable.exists()
    assert cli.run(["runs", "prune", "--states"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
