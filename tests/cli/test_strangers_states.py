"""States and records from another user that the command line refuses."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from lora_training import cli, manifest, workspace
from lora_training.app import plan
from lora_training.supervise import record
from tests.helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.numpy")
SMOKE = ROOT / "configs" / "smoke.toml"


@pytest.mark.usefixtures("sd_scripts")
@pytest.mark.parametrize("flag", ["resume=/state", "resume_from_huggingface=true"])
def test_upstreams_own_flags_for_a_state_are_exit_3(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["train", str(SMOKE), "--set", f"output_dir={tmp_path}", "--set", flag, "--dry-run"]) == 3
    said = capsys.readouterr().err
    assert f"`{flag.partition('=')[0]}` is not passed on" in said
    assert "`[run] resume`" in said


def train(folder: Path, *more: str) -> int:
    return cli.run(["train", str(SMOKE), "--set", f"output_dir={folder}", "--set", "output_name=cats", *more])


def save(folder: Path, made_by: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    safetensors.save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    manifest.write(folder, step=10, made_by=made_by)
    return folder


def made_by(folder: Path) -> dict[str, str]:
    """What makes the run there."""
    sets = (f"output_dir={folder}", "output_name=cats")
    return dict(plan.make(workspace.find(), SMOKE, sets, write=False).made_by)


@pytest.mark.usefixtures("sd_scripts")
@pytest.mark.parametrize("harm", ["extra file", "no files listed", "link", "path outside"])
def test_a_state_that_says_less_than_all_of_itself_is_exit_3_or_6(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = save(tmp_path / "state", {})
    described = json.loads((state / manifest.NAME).read_text())
    if harm == "extra file":
        (state / "custom_checkpoint_0.pkl").write_bytes(b"")
    elif harm == "link":
        (state / "optimizer.bin").symlink_to("/dev/zero")
    else:
        described["files"] = {} if harm == "no files listed" else {"../../etc/passwd": "0" * 64}
    (state / manifest.NAME).write_text(json.dumps(described))
    said = {"extra file": "custom_checkpoint_0.pkl is not among", "link": "optimizer.bin is no regular file"}
    assert train(tmp_path / "out", "--resume", str(state)) == (6 if harm in said else 3)
    assert said.get(harm, "is not a complete saved state") in capsys.readouterr().err


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to give files away, as root")


@needs_root
@pytest.mark.usefixtures("sd_scripts")
def test_a_state_that_another_user_put_there_is_taken_only_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    state = save(folder / "cats-step00000010-state", made_by(folder))
    assert train(folder, "--dry-run") == 0
    os.chown(state, 54321, -1)
    assert train(folder, "--dry-run") == 3
    assert f"{state} was put there by another user" in capsys.readouterr().err
    assert train(folder, "--dry-run", "--resume", str(state)) == 0
    os.chown(folder, 54321, -1)
    assert train(folder, "--dry-run") == 0


def recorded(folder: Path, **more: Any) -> Path:
    folder.mkdir()
    (folder / "config.toml").write_text(SMOKE.read_text())
    record.Record("cats", "c.toml", str(folder.with_suffix(".safetensors")), "x", {"config": "c"}).save(folder)
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


START = {"path": "state", "step": 1, "sha256": "0"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"made_by": {}}, "no digests of its inputs"),
        ({"start": START}, "'state' is relative"),
        ({"start": START | {"path": "../state"}}, "'../state' is relative"),
    ],
)
def test_a_record_that_could_mean_anything_is_not_run_again(
    tmp_path: Path, more: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["runs", "rerun", str(recorded(tmp_path / "cats.run", **more))]) == 3
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("sd_scripts")
def test_a_record_that_says_half_of_what_made_it_differs_in_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = made_by(tmp_path / "cats.rerun")
    folder = recorded(tmp_path / "cats.run", made_by={"upstream": made["upstream"]})
    assert cli.run(["runs", "rerun", str(folder)]) == 1
    assert "config: none -> " in capsys.readouterr().err


@needs_root
@pytest.mark.usefixtures("sd_scripts")
def test_a_record_that_begins_with_another_users_state_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = save(tmp_path / "theirs" / "state", {"config": "c"})
    start = {"path": str(state), "step": 10, "sha256": manifest.digest(state / manifest.NAME)}
    folder = recorded(tmp_path / "cats.run", start=start)
    os.chown(state, 54321, -1)
    assert cli.run(["runs", "rerun", str(folder), "--allow-changes"]) == 3
    assert f"the run started from the state {state}, which is another user's" in capsys.readouterr().err
