"""Which state a run goes on from, when others lie beside its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_training import manifest
from lora_training.app import recording, resuming
from lora_training.errors import ConfigError, LoraError
from lora_training.supervise import record, states
from tests.helpers import ROOT, lora

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.numpy")

ME, OTHER = {"config": "me", "upstream": "u"}, {"config": "other", "upstream": "u"}


@dataclass
class Heard:
    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def heard() -> Any:
    return Heard()


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    (tmp_path / "cats.run").mkdir()
    output = tmp_path / "cats.safetensors"
    return SimpleNamespace(
        output=output,
        folder=tmp_path / "cats.run",
        made_by=ME,
        tree=SimpleNamespace(is_miniature=False),
        started=SimpleNamespace(machine_rank=0),
        config=SimpleNamespace(path=tmp_path / "cats.toml", origins={}, entries={}),
        runtime={"exact-resume": {}},
        tensorboard=None,
    )


def save(plan: Any, step: int, made_by: dict[str, str] = ME) -> Path:
    folder: Path = plan.output.with_name(f"cats-step{step:08d}-state")
    folder.mkdir()
    safetensors.save_file({"w": np.ones(3, np.float32)}, folder / "model.safetensors")
    manifest.write(folder, step=step, made_by=made_by)
    return folder


def recorded(plan: Any, made_by: dict[str, str], start: Path | None = None, state: str = "running") -> None:
    run = record.Record("cats", "cats.toml", str(plan.output), "python", made_by, state)
    run.start = {"path": str(start), "step": 50, "sha256": ""} if start else None
    run.save(plan.folder)


def chosen(plan: Any, resume: str, heard: Any) -> states.State | None:
    return resuming.state(plan, resuming.meant(plan, resume, heard), heard)


def test_its_own_state_is_taken_quietly_though_another_runs_is_further(plan: Any, heard: Any) -> None:
    save(plan, 50, OTHER)
    own = save(plan, 20)
    assert chosen(plan, "auto", heard) == states.State(own, 20, ME)
    assert heard.lines == [f"continuing from step 20: {own}"]


def test_its_own_damaged_state_is_passed_over_aloud(plan: Any, heard: Any) -> None:
    (save(plan, 30) / "model.safetensors").write_bytes(b"")
    save(plan, 20)
    assert "passing over" in (chosen(plan, "auto", heard), heard.lines[0])[1]


def test_another_runs_state_is_refused_when_there_is_none_of_its_own(plan: Any, heard: Any) -> None:
    path = save(plan, 50, OTHER)
    with pytest.raises(LoraError, match="another config") as caught:
        chosen(plan, "auto", heard)
    assert f"--resume {path}" in str(caught.value.hint)


def test_what_a_complete_run_left_is_refused_alike_and_not_for_the_smoke_run(plan: Any, heard: Any) -> None:
    save(plan, 50, OTHER)
    recorded(plan, OTHER, state="complete")
    with pytest.raises(ConfigError, match="another config"):
        chosen(plan, "auto", heard)
    plan.config.path = ROOT / "configs" / "smoke.toml"
    assert chosen(plan, "auto", heard) is None


def test_a_lora_that_says_nothing_of_its_maker_is_refused_as_well(plan: Any, heard: Any) -> None:
    safetensors.save_file({"w": np.ones(3, np.float32)}, plan.output)
    with pytest.raises(ConfigError, match="does not name"):
        chosen(plan, "auto", heard)


def test_a_named_state_is_no_leave_to_put_a_third_run_aside(plan: Any, heard: Any, tmp_path: Path) -> None:
    elsewhere = save(plan, 50, {"config": "third"}).rename(tmp_path / "dogs-state")
    save(plan, 60, OTHER)
    recorded(plan, OTHER)
    with pytest.raises(ConfigError, match="another config"):
        chosen(plan, str(elsewhere), heard)


def test_a_run_that_has_saved_nothing_yet_begins_again_where_it_began(plan: Any, heard: Any) -> None:
    path = save(plan, 50, OTHER)
    manifest.keep(path)
    recorded(plan, ME, path)
    assert chosen(plan, "auto", heard) == states.State(path, 50, OTHER)


def test_from_another_start_its_own_earlier_work_is_put_aside(
    plan: Any, heard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(plan, 10)
    recorded(plan, ME)
    path = save(plan, 50, OTHER)
    names = begun(plan, str(path), heard, monkeypatch)
    assert names >= {path.name, "cats.1-step00000010-state", "cats.1.run"}


def test_the_same_command_goes_on_from_what_came_of_the_state_that_it_names(plan: Any, heard: Any) -> None:
    path = save(plan, 50, OTHER)
    recorded(plan, ME, path)
    first = chosen(plan, str(path), heard)
    assert first
    assert first.path == path
    own = save(plan, 60)
    again = chosen(plan, str(path), heard)
    assert again
    assert again.path == own
    assert "has continued since" in heard.lines[-2]


def test_a_state_that_it_did_not_begin_with_is_taken_as_named(plan: Any, heard: Any) -> None:
    path = save(plan, 50, OTHER)
    save(plan, 60)
    for made_by, start in ((OTHER, path), (ME, None), (ME, plan.output)):
        recorded(plan, made_by, start)
        assert resuming.meant(plan, str(path), heard) == str(path)


def test_from_the_start_is_from_the_start(plan: Any, heard: Any) -> None:
    save(plan, 50)
    assert chosen(plan, "never", heard) is None


def begun(plan: Any, resume: str, heard: Any, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names that lie there after a start from that, as far as that puts aside."""
    monkeypatch.setattr(recording, "_write", lambda *_given, **_more: None)
    here: Any = SimpleNamespace(runs=plan.folder.parent / "state" / "runs")
    with record.alone(plan.folder):
        recording.begin(here, plan, resume, resuming.state(plan, resume, heard), heard)
    return {path.name for path in plan.folder.parent.iterdir()}


def test_the_older_runs_other_states_are_put_aside_and_the_named_one_stays(
    plan: Any, heard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(plan, 50, OTHER)
    save(plan, 60, OTHER)
    recorded(plan, OTHER)
    names = begun(plan, str(path), heard, monkeypatch)
    assert names >= {path.name, "cats.1-step00000060-state", "cats.1.run"}
    assert "cats-step00000060-state" not in names
    assert "cats.1" in heard.lines[-1]


def test_its_own_states_stay_when_it_is_its_turn_again(plan: Any, heard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for step, made_by in ((10, ME), (20, ME), (30, OTHER)):
        save(plan, step, made_by)
    recorded(plan, OTHER)
    names = begun(plan, "auto", heard, monkeypatch)
    assert names >= {"cats-step00000010-state", "cats-step00000020-state", "cats.1-step00000030-state"}


@pytest.mark.parametrize("made_by", [OTHER, {}])
def test_anothers_checkpoints_are_put_aside_without_a_record(
    plan: Any, heard: Any, monkeypatch: pytest.MonkeyPatch, made_by: dict[str, str]
) -> None:
    metadata = {f"lora_{name}": value for name, value in made_by.items()}
    safetensors.save_file({"w": np.ones(3, np.float32)}, plan.output.with_name("cats-000002.safetensors"), metadata)
    with pytest.raises(ConfigError, match="another config" if made_by else "does not name"):
        chosen(plan, "auto", heard)
    plan.config.path = ROOT / "configs" / "smoke.toml"
    assert "cats.1-000002.safetensors" in begun(plan, "auto", heard, monkeypatch)


def test_its_own_checkpoints_stay_without_a_record(plan: Any, heard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {f"lora_{name}": value for name, value in ME.items()}
    safetensors.save_file({"w": np.ones(3, np.float32)}, plan.output.with_name("cats-000002.safetensors"), metadata)
    assert "cats-000002.safetensors" in begun(plan, "auto", heard, monkeypatch)


THEN = """
[flags]
learning_rate = 0.001
lr_scheduler = "cosine"
network_dim = 4
network_args = { loraplus_lr_ratio = 4 }
output_dir = "/there"
[run]
retries = 1
[[datasets]]
batch_size = 1
"""
NOW = THEN.replace("0.001", "0.1").replace("cosine", "constant").replace("= 4", "= 8").replace("there", "here")


@pytest.fixture
def edited(plan: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state of an earlier run, whose configuration was edited since; its folder."""
    recorded(plan, OTHER)
    (plan.folder / "config.toml").write_text(THEN, encoding="utf-8")
    monkeypatch.setattr(recording, "resolved", lambda _plan: NOW.replace("retries = 1", "retries = 2"))
    return save(plan, 50, OTHER)


def test_a_refusal_shows_what_differs(plan: Any, heard: Any, edited: Path) -> None:
    with pytest.raises(LoraError) as caught:
        chosen(plan, "auto", heard)
    assert str(caught.value.hint).splitlines()[:4] == [
        "learning_rate: 0.001 -> 0.1",
        'lr_scheduler: "cosine" -> "constant"',
        "network_dim: 4 -> 8",
        "network_args.loraplus_lr_ratio: 4 -> 8",
    ]
    assert "retries" not in str(caught.value.hint)
    assert "/here" not in str(caught.value.hint)


def test_a_refusal_shows_five_of_many(plan: Any, heard: Any, edited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = "\n".join(f"extra_{number} = {number}" for number in range(7))
    monkeypatch.setattr(recording, "resolved", lambda _plan: THEN.replace("[run]", f"{many}\n[run]"))
    with pytest.raises(LoraError) as caught:
        chosen(plan, "auto", heard)
    lines = str(caught.value.hint).splitlines()
    assert lines[4:6] == ["extra_4: not given -> 4", "and 2 more"]


def test_what_comes_from_a_named_state_is_said(plan: Any, heard: Any, edited: Path) -> None:
    chosen(plan, str(edited), heard)
    said = [line for line in heard.lines if "come from the state and not from the configuration" in line]
    assert len(said) == 2
    assert said[0].endswith(": learning_rate, network_args.loraplus_lr_ratio")
    assert said[1].endswith(": lr_scheduler")
    assert "warning: network_dim: 4 -> 8" in heard.lines


def test_where_the_other_configuration_is_gone_it_is_said_in_general(plan: Any, heard: Any) -> None:
    path = save(plan, 50, OTHER)
    recorded(plan, ME)
    chosen(plan, str(path), heard)
    assert "learning rates, optimizer settings" in heard.lines[-1]


def test_a_state_of_its_own_that_is_named_needs_no_warning(plan: Any, heard: Any) -> None:
    chosen(plan, str(save(plan, 50)), heard)
    assert heard.lines == []


def test_the_schedules_shape_is_the_configurations_and_its_rates_are_the_states() -> None:
    """The warning about a resumed schedule describes torch's behaviour."""
    torch = pytest.importorskip("torch")
    from functools import partial

    def made(rate: float, steps: int) -> tuple[Any, Any]:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=rate)
        falling = partial(lambda step, *, steps: 1 - step / steps, steps=steps)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, falling)

    old, new = made(1.0, 10), made(5.0, 100)
    for before, after in zip(old, new, strict=True):
        after.load_state_dict(before.state_dict())
    new[0].step()
    new[1].step()
    assert new[1].get_last_lr() == [0.99]


def test_a_wrong_place_is_refused_with_the_newest_good_states(plan: Any, heard: Any) -> None:
    good = [save(plan, step, OTHER) for step in (10, 20, 30, 40)]
    damaged = save(plan, 50)
    (damaged / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="does not exist") as caught:
        chosen(plan, str(plan.folder / "missing"), heard)
    offered = str(caught.value.hint).splitlines()
    assert [str(path) in line for path, line in zip(good[:0:-1], offered, strict=True)] == [True] * 3
    with pytest.raises(ConfigError, match="not a complete saved state"):
        chosen(plan, str(plan.folder), heard)


def test_an_empty_option_is_a_wrong_use(tmp_path: Path) -> None:
    for option in ("--resume", "--image"):
        ran = lora("train", tmp_path / "cats.toml", option, "", cwd=ROOT)
        assert ran.code == 2
        assert f"Invalid value for '{option}'" in ran.err


@pytest.mark.upstream
def test_a_place_in_the_home_of_nobody_is_one_that_does_not_exist(sd_scripts: Path, tmp_path: Path) -> None:
    smoke = ROOT / "configs" / "smoke.toml"
    ran = lora("train", smoke, "--set", f"output_dir={tmp_path}", "--resume", "~nouser/x", "--dry-run", cwd=ROOT)
    assert ran.code == 3
    assert "~nouser/x does not exist" in ran.err
    assert "Traceback" not in ran.err


def test_where_nothing_watches_the_saves_a_kept_states_name_is_refused(
    plan: Any, heard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(plan, 50, OTHER)
    plan.runtime = {"tiny-unet": {}}
    with pytest.raises(ConfigError, match="could overwrite it"):
        begun(plan, str(path), heard, monkeypatch)
    assert path.exists()
