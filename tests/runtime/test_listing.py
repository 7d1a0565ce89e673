"""Runtime patches in the command line and in the check of configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_training.runtime import model, registry, verify
from tests.helpers import ROOT, lora, write

SMOKE = ROOT / "configs" / "smoke.toml"
DEFAULT = {
    *("exact-resume", "graceful-stop", "lazy-bitsandbytes", "local-tokenizers", "nan-guard", "progress", "provenance"),
    *("ranks", "samples", "scalar-outputs"),
}


def test_every_patch_says_everything_and_names_tests_that_are_there() -> None:
    for name, patch in registry.available().items():
        assert patch.name == name
        assert all([patch.reason, patch.upstream_version, patch.verification, patch.removal_condition, patch.targets])
        tests = [word.strip(",:") for word in patch.verification.split() if word.startswith("tests/")]
        assert tests
        assert [each for each in tests if not (ROOT / each).exists()] == [], name


def test_those_on_by_default_are_chosen_unless_switched_off() -> None:
    assert set(registry.chosen({})) == DEFAULT
    table = {"nan-guard": False, "progress": True, "ema": {"decay": 0.5}}
    assert registry.chosen(table) == {name: {} for name in DEFAULT - {"nan-guard"}} | {"ema": {"decay": 0.5}}


def test_a_default_patch_for_one_family_is_no_part_of_the_runs_of_the_others() -> None:
    """Else a new one would make every saved state another configuration's."""
    of_one = {"local-tokenizers", "scalar-outputs"}
    assert set(registry.chosen({}, "sdxl_train_network")) == DEFAULT - of_one
    assert set(registry.chosen({}, "hunyuan_image_train_network")) == DEFAULT
    assert "scalar-outputs" in registry.chosen({"scalar-outputs": True}, "train_network")


def test_list_shows_the_patches_with_their_settings() -> None:
    ran = lora("patch", "list", "--json", cwd=ROOT)
    listed = {row["name"]: row for row in json.loads(ran.out)["runtime"]}
    assert set(listed) == set(registry.available())
    assert listed["nan-guard"]["settings"] == {"max_consecutive": 10}
    assert listed["tiny-unet"]["settings"] == {"block_out_channels": None}
    assert {name for name, row in listed.items() if row["on_by_default"]} == DEFAULT


@pytest.mark.upstream
def test_a_package_that_is_not_the_one_that_a_patch_was_made_for_is_found(sd_scripts: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = verify.locate("accelerate.scheduler", sd_scripts)
    assert found
    text = found.read_text(encoding="utf-8")
    write(tmp_path, {"accelerate/scheduler.py": text.replace("for _ in range(num_processes):", "for _ in range(1):")})
    problems = [each.message for each in registry.check(tmp_path, ["nan-guard"])]
    changed = f"AcceleratedScheduler.step in {tmp_path / 'accelerate/scheduler.py'} has changed since the pin"
    assert any(each.startswith(f"runtime patch nan-guard: {changed}, to digest ") for each in problems)
    assert "runtime patch nan-guard: NetworkTrainer.train in train_network is missing" in problems


@pytest.mark.upstream
def test_config_check_points_at_a_wrong_setting(sd_scripts: Path, tmp_path: Path) -> None:
    text = SMOKE.read_text(encoding="utf-8") + "\n[runtime.ema]\ndecay = 2\nevry = 1\n"
    write(tmp_path, {"mine.toml": text})
    ran = lora("config", "check", tmp_path / "mine.toml", cwd=ROOT)
    assert ran.code == 1, ran.out + ran.err
    line = 1 + text.splitlines().index("evry = 1")
    said = ran.out + ran.err
    assert "`decay` must be from 0 to 1, not 2" in said
    assert f"mine.toml:{line}" in said
    assert "did you mean `every`?" in said


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"max_consecutive": 0}, "must be at least 1"),
        ({"max_consecutive": True}, "must be a whole number, not True"),
        ({"max_consecutive": "3"}, "must be a whole number, not '3'"),
        ({"max_konsecutive": 3}, "there is no setting `max_konsecutive`"),
    ],
)
def test_a_setting_that_does_not_fit_is_told(table: dict[str, object], said: str) -> None:
    (problem,) = model.settings_problems(registry.available()["nan-guard"].settings, table)
    assert said in problem.message


def test_words_and_numbers_are_checked_too() -> None:
    scope = registry.available()["dataset-loss"].settings
    (problem,) = model.settings_problems(scope, {"loss_scope": "local"})
    assert problem.message == '`loss_scope` must be "global" or "per_dataset", not \'local\''
    (problem,) = model.settings_problems(registry.available()["ema"].settings, {"decay": float("nan")})
    assert "a number" in problem.message
