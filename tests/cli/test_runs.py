"""`lora runs` on what may be found in its folders: names, records and pointers of any kind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lora_training import cli, files, workspace
from lora_training.errors import LoraError
from lora_training.supervise import record, run_index


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> workspace.Workspace:
    """A checkout with no run yet."""
    for name in ("patches", "lora_training"):
        (tmp_path / name).mkdir()
    (tmp_path / ".gitmodules").touch()
    monkeypatch.setenv(workspace.HOME_VARIABLE, str(tmp_path))
    monkeypatch.delenv(workspace.RUNS_VARIABLE)
    return workspace.Workspace(tmp_path)


def keep(here: workspace.Workspace, folder: str, rerun_of: str | None = None) -> Path:
    """A run called "a" in that folder, and in the index of runs."""
    place = here.root / folder / "a.run"
    place.mkdir(parents=True)
    lora = str(place.with_suffix(".safetensors"))
    record.Record("a", "c", lora, "x", {}, "complete", rerun_of=rerun_of).save(place)
    run_index.add(here, place)
    return place


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("verb", ["show", "stop", "rerun"])
@pytest.mark.parametrize("name", ["/", "..", "", "."])
def test_a_folder_that_is_no_run(verb: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["runs", verb, name]) == 1
    assert capsys.readouterr().err == f"error: there is no run {name!r}\nhint: runs: none yet\n"


def test_one_bad_record_does_not_hide_the_others(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    keep(here, "good")
    path = keep(here, "bad") / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "x"}))
    assert cli.run(["runs", "list", "--json"]) == 0
    assert [run["folder"] for run in json.loads(capsys.readouterr().out)["runs"]] == [str(here.root / "good" / "a.run")]


def test_a_folder_among_the_pointers_is_no_run(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    keep(here, "good")
    (here.state / "runs" / "folder").mkdir()
    assert cli.run(["runs", "list"]) == 0
    assert capsys.readouterr().out.startswith("a: complete, 0 attempts, ")


@pytest.mark.parametrize("text", ['{"files": 3}', '{"patches": 3, "gpus": {}}'])
def test_files_beside_a_record_that_make_no_sense_hide_nothing_else(
    here: workspace.Workspace, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = keep(here, "odd")
    (folder / "inputs.json").write_text(text)
    assert cli.run(["runs", "show", "a"]) == 0
    assert "not readable: inputs.json\n" in capsys.readouterr().out


def test_a_run_of_another_user_cannot_be_stopped(
    here: workspace.Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = keep(here, "running")

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with record.alone(folder):
        monkeypatch.setattr(files, "touch", refuse)
        assert cli.run(["runs", "stop", "a"]) == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write to {folder}: Permission denied\nhint: the user who")


def test_a_run_that_has_ended_is_not_running_whether_or_not_it_was_rerun(
    here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    first = keep(here, "first")
    again = keep(here, "again", rerun_of=str(first))
    assert cli.run(["runs", "stop", "a"]) == 1
    assert "error: a is not running" in capsys.readouterr().err
    with record.alone(again):
        assert cli.run(["runs", "stop", "a"]) == 0
    assert [(folder / record.STOP).exists() for folder in (first, again)] == [False, True]


@pytest.mark.parametrize("variable", [workspace.HOME_VARIABLE, workspace.CACHE_VARIABLE])
def test_a_home_folder_that_nobody_knows(
    here: workspace.Workspace, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "~no-such-user/x")
    with pytest.raises(LoraError, match=f"{variable}=~no-such-user/x: no such user: ~no-such-user"):
        _ = here.cache if variable == workspace.CACHE_VARIABLE else workspace.find()
