"""`lora runs` on what may be found in its folders: names, records and pointers of any kind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from lora_training import cli, files, workspace
from lora_training.errors import LoraError
from lora_training.supervise import record, run_index


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


def test_a_misspelt_run_is_told_the_one_that_is_meant(
    here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(here, "out")
    assert cli.run(["runs", "show", "A1"]) == 1
    assert "hint: did you mean `a`?" in capsys.readouterr().err


def test_one_bad_record_does_not_hide_the_others(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    keep(here, "good")
    path = keep(here, "bad") / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "x"}))
    assert cli.run(["runs", "list", "--json"]) == 0
    assert [run["folder"] for run in json.loads(capsys.readouterr().out)["runs"]] == [str(here.root / "good" / "a.run")]


@pytest.mark.parametrize("verb", ["show", "log"])
def test_of_two_runs_of_one_name_the_newest_is_meant_and_said(
    here: workspace.Workspace, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(here, "old")
    newest = keep(here, "new")
    cli.run(["runs", verb, "a"])
    assert capsys.readouterr().err.startswith(f"note: of 2 runs 'a' this is the newest: {newest}\n")


def test_a_moved_folder_is_told_and_found_again_by_its_record(
    here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = keep(here, "out")
    (here.root / "out").rename(here.root / "moved")
    after = here.root / "moved" / "a.run"
    assert cli.run(["runs", "list"]) == 0
    assert capsys.readouterr().err.startswith(f"gone: {before}\n`lora runs show FOLDER/NAME` finds")
    assert cli.run(["runs", "show", "a"]) == 1
    assert f"error: the folder of the run 'a' is gone: {before}\nhint: `lora runs show" in capsys.readouterr().err
    assert cli.run(["runs", "show", "/"]) == 1
    assert "there is no run '/'" in capsys.readouterr().err
    # by its folder once, then by its name
    assert cli.run(["runs", "show", str(after)]) == 0
    assert capsys.readouterr().err.startswith(f"note: {before} was moved to {after}")
    assert cli.run(["runs", "show", "a", "--json"]) == 0
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["output"], shown.err) == (str(here.root / "moved" / "a.safetensors"), "")
    assert cli.run(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gone"] == []


def test_a_copied_folder_is_a_run_of_its_own(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    first = keep(here, "out")
    shutil.copytree(here.root / "out", here.root / "copy")
    assert cli.run(["runs", "show", str(here.root / "copy" / "a.run"), "--json"]) == 0
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["output"], shown.err) == (str(here.root / "copy" / "a.safetensors"), "")
    assert cli.run(["runs", "list", "--json"]) == 0
    assert [run["folder"] for run in json.loads(capsys.readouterr().out)["runs"]] == [str(first)]


def test_list_and_show_say_when_a_lora_is_gone(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    lora = keep(here, "out").with_suffix(".safetensors")
    assert cli.run(["runs", "list"]) == 0
    assert capsys.readouterr().out.endswith(f"{lora} (the file is gone)\n")
    assert cli.run(["runs", "show", "a"]) == 0
    assert f"output    {lora} (the file is gone)\n" in capsys.readouterr().out
    lora.touch()
    assert cli.run(["runs", "list"]) == 0
    assert capsys.readouterr().out.endswith(f"{lora}\n")


def test_list_and_show_say_how_far_a_running_run_is(
    here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = keep(here, "out")
    record.Record("a", "c", str(folder.with_suffix(".safetensors")), "x", {}, "running").save(folder)
    step = {"event": "step", "step": 3, "seconds": 2.0, "avr_loss": 0.5, "lr": [1e-4], "memory_mb": None, "epoch": 1}
    events = ({"event": "start", "total_steps": 10}, step)
    (folder / record.EVENTS).write_text("".join(f"{json.dumps(event)}\n" for event in events))
    with record.alone(folder):
        for verb in (["list"], ["show", "a"]):
            assert cli.run(["runs", *verb]) == 0
            assert capsys.readouterr().out.startswith("a: running, step 3/10, 0:00:14 left, loss 0.5000")
    assert cli.run(["runs", "list"]) == 0
    assert capsys.readouterr().out.startswith("a: died, 0 attempts")


def test_the_shell_completes_the_names_of_runs(
    here: workspace.Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(here, "out")
    monkeypatch.setenv("_LORA_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "3")
    for verb in ("show", "rm", "compare"):
        monkeypatch.setenv("COMP_WORDS", f"lora runs {verb} ")
        with pytest.raises(SystemExit):
            cli.run([])
        assert capsys.readouterr().out == "plain,a\n"


def test_a_folder_among_the_pointers_is_no_run(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    keep(here, "good")
    (here.state / "runs" / "folder").mkdir()
    assert cli.run(["runs", "list"]) == 0
    assert capsys.readouterr().out.startswith("a: complete, 0 attempts, ")


def test_a_run_of_the_miniature_is_told_from_one_of_sd_scripts(
    here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, upstream in (("real", "0123456789abcdef"), ("stand-in", "none")):
        folder = keep(here, name)
        path = folder / record.RECORD
        path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name, "made_by": {"upstream": upstream}}))
        (folder / "config.toml").write_text(f"[[datasets]]\nbatch_size = 1\n[[datasets]]\nbatch_size = {len(name)}\n")
    assert cli.run(["runs", "list"]) == 0
    assert sorted(line.split(", 0 ")[0] for line in capsys.readouterr().out.splitlines()) == [
        "real: complete",
        "stand-in: complete, the miniature (NOT sd-scripts)",
    ]
    assert cli.run(["runs", "compare", "real", "stand-in"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert any(
        line.split(maxsplit=2) == ["upstream", "0123456789ab", "the miniature (NOT sd-scripts)"] for line in said
    )
    # as for --set
    assert said[-1].split() == ["datasets.1.batch_size", "4", "8"]
    assert cli.run(["runs", "list", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {run["name"]: run["miniature"] for run in runs} == {"real": False, "stand-in": True}


def test_one_run_is_not_compared(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    keep(here, "out")
    assert cli.run(["runs", "compare", "a"]) == 2
    assert capsys.readouterr().err.startswith("error: give two runs to compare, or more\nhint: ")


def step(number: int, loss: object, seconds: object = 0.5) -> str:
    event = {"event": "step", "step": number, "time": 100.0 + number, "avr_loss": loss, "seconds": seconds}
    return json.dumps({**event, "loss": loss, "epoch": 1, "lr": [1e-4], "memory_mb": None}) + "\n"


def test_the_figures_are_the_same_in_words_and_in_json(
    here: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = keep(here, "out")
    (folder.parent / "a-000002.safetensors").touch()
    start = json.dumps({"event": "start", "total_steps": 3, "time": 100.0}) + "\n"
    (folder / "events.jsonl").write_text(start + step(1, 0.5) + step(2, 0.25) + step(3, 0.375))
    assert cli.run(["runs", "show", "a"]) == 0
    said = capsys.readouterr().out
    assert "loss      0.3750, lowest 0.2500 at step 2 (averages of an epoch)\ntime      0:00:03, 0.5 s/step\n" in said
    assert f"saves     1 checkpoint in {folder.parent}\n" in said
    assert cli.run(["runs", "show", "a", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    losses = {"loss": 0.375, "lowest_loss": 0.25, "lowest_loss_step": 2}
    assert shown["figures"] == {"step": 3, "total": 3, **losses, "seconds": 3.0, "seconds_per_step": 0.5}
    assert (shown["checkpoints"], shown["states"]) == ([str(folder.parent / "a-000002.safetensors")], [])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("odd", ["x", None, True, [[]], 10**400, float("nan")])
def test_a_loss_that_is_no_number_hides_nothing(
    here: workspace.Workspace, odd: object, capsys: pytest.CaptureFixture[str]
) -> None:
    events = step(1, odd, odd) + step(2, 0.5) + step(3, odd, odd)
    (keep(here, "out") / "events.jsonl").write_text(events)
    assert cli.run(["runs", "show", "a"]) == 0
    assert "loss      not finite, lowest 0.5000 at step 2 (averages of an epoch)\n" in capsys.readouterr().out
    assert cli.run(["runs", "show", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["loss"] is None


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


def test_a_rerun_is_named_by_its_output_folder(here: workspace.Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    again = keep(here, "a.rerun", rerun_of=str(keep(here, "first")))
    keep(here, "other")
    assert cli.run(["runs", "show", "a.rerun", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(again)
    assert cli.run(["runs", "show", "other"]) == 1


@pytest.mark.parametrize("variable", [workspace.HOME_VARIABLE, workspace.CACHE_VARIABLE])
def test_a_home_folder_that_nobody_knows(
    here: workspace.Workspace, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "~no-such-user/x")
    with pytest.raises(LoraError, match=f"{variable}=~no-such-user/x: no such user: ~no-such-user"):
        _ = here.cache if variable == workspace.CACHE_VARIABLE else workspace.find()
