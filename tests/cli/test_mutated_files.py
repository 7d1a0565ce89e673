"""Records, states and LoRAs that were harmed in many ways: an answer each time, no traceback, no other run hidden."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from lora_training import cli, manifest, workspace
from lora_training.config import document
from lora_training.supervise import record, run_index
from tests import mutations
from tests.helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SMOKE = ROOT / "configs" / "smoke.toml"
SHA = "0" * 64
ENVIRONMENT = {
    "upstreams": {"sd-scripts": SHA},
    "patches": {"sd-scripts/a.patch": SHA},
    "runtime": {"ema": {"decay": 0.9}},
    "python": "3.11.7",
    "platform": "Linux",
    "packages": {"torch": "2.10.0"},
    "code": SHA,
    "gpus": [{"name": "H100", "memory": 80}],
    "driver": "550",
}
INPUTS = {"dataset": SHA, "models": SHA, "files": {"dataset": {"/a.png": SHA}, "models": {"/m.safetensors": SHA}}}
HEADER = {
    "__metadata__": {"ss_base_model_version": "sd_v1", "ss_network_dim": "4", "ss_datasets": "[]", "format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b.lora_up.weight": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> workspace.Workspace:
    """A checkout with no run yet."""
    for name in ("patches", "lora_training"):
        (tmp_path / name).mkdir()
    (tmp_path / ".gitmodules").touch()
    monkeypatch.setenv(workspace.HOME_VARIABLE, str(tmp_path))
    return workspace.Workspace(tmp_path)


def recorded(here: workspace.Workspace, name: str) -> Path:
    """A run with a record that has everything, in the index of runs."""
    folder = here.root / f"{name}.run"
    folder.mkdir()
    run = record.Record(name, "c.toml", str(folder.with_suffix(".safetensors")), "x", {"config": SHA, "upstream": SHA})
    run.attempts = [{"log": "attempt-1.log", "from_step": 0, "started": 1.0, "ended": 2.0, "code": 0, "death": "x"}]
    run.result = {"path": run.output, "steps": 5, "tensors": 3, "sha256": SHA, "tensors_sha256": SHA}
    run.start, run.rerun_of = {"path": "/state", "step": 1, "sha256": SHA}, "/other.safetensors"
    run.save(folder)
    for file, text in (("inputs.json", INPUTS), ("environment.json", ENVIRONMENT), ("config.toml", "")):
        (folder / file).write_text(text if isinstance(text, str) else json.dumps(text))
    run_index.add(here, folder)
    return folder


@pytest.mark.parametrize("name", ["run.json", "inputs.json", "environment.json"])
def test_a_harmed_record_is_answered_for_and_hides_no_other(
    here: workspace.Workspace, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = mutations.seeded(name)
    recorded(here, "good")
    harmed = recorded(here, "harmed")
    whole = json.loads((harmed / name).read_text())
    for _ in range(120):
        (harmed / name).write_bytes(mutations.document(rng, whole))
        for command in ("show", "rerun", "stop"):
            assert cli.run(["runs", command, str(harmed)]) in (0, 1, 3, 4)
        capsys.readouterr()
        assert cli.run(["runs", "show", str(harmed), "--json"]) in (0, 1)
        json.loads(capsys.readouterr().out or "null")
        assert cli.run(["runs", "list"]) == 0
        assert "good: running" in capsys.readouterr().out.replace("died", "running")


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "a terabyte", "a folder"])
@pytest.mark.parametrize("name", ["run.json", "inputs.json", "environment.json", "config.toml", "lock"])
def test_what_is_no_file_to_read_in_a_record_is_not_waited_for(
    here: workspace.Workspace, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(here, "good")
    path = recorded(here, "odd") / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 2**40)
    for more in (["list"], ["show", "odd"], ["show", "odd", "--json"], ["rerun", "odd"]):
        assert cli.run(["runs", *more]) in (0, 1, 3, 4)
        assert more != ["list"] or "good: died" in capsys.readouterr().out


def saved(folder: Path) -> dict[str, Any]:
    """A small state in `folder`, and its manifest."""
    folder.mkdir(parents=True)
    text = json.dumps(HEADER).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    (folder / "optimizer.bin").write_bytes(b"x")
    manifest.write(folder, step=10, made_by={"config": SHA, "upstream": SHA})
    return dict(json.loads((folder / manifest.NAME).read_text()))


@pytest.mark.usefixtures("sd_scripts")
@pytest.mark.parametrize("name", [manifest.NAME, "model.safetensors"])
def test_harmed_states_are_passed_over_or_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = mutations.seeded(name)
    for number in range(80):
        folder = tmp_path / f"cats-step{number:08d}-state"
        whole = saved(folder)
        if name == manifest.NAME:
            (folder / name).write_bytes(mutations.document(rng, whole))
            continue
        data = mutations.tensor_file(rng, HEADER, bytes(16))
        (folder / name).write_bytes(data)
        whole["files"][name] = hashlib.sha256(data).hexdigest()
        (folder / manifest.NAME).write_text(json.dumps(whole))
    train = ["train", str(SMOKE), "--set", f"output_dir={tmp_path}", "--set", "output_name=cats", "--dry-run"]
    # all of them are looked at, for one to go on from
    assert cli.run(train) in (0, 3)
    for folder in rng.sample(sorted(tmp_path.iterdir()), 8):
        assert cli.run([*train, "--resume", str(folder)]) in (0, 3, 6)
    capsys.readouterr()


@pytest.mark.usefixtures("sd_scripts")
def test_a_harmed_lora_is_imported_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = mutations.seeded("lora")
    lora, made = tmp_path / "a.safetensors", tmp_path / "a.toml"
    for _ in range(120):
        lora.write_bytes(mutations.tensor_file(rng, HEADER, bytes(16)))
        made.unlink(missing_ok=True)
        code = cli.run(["config", "import", str(lora), "-o", str(made)])
        assert code in (0, 3), capsys.readouterr().err
        assert code or document.read(made).data["script"]
        capsys.readouterr()
