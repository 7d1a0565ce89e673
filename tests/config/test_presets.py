from __future__ import annotations

import re

import pytest

from lora_training.config import presets
from lora_training.config.checks import Machine, check
from lora_training.config.document import read, texts, value_at
from lora_training.config.loading import load
from lora_training.errors import ConfigError
from tests.config.helpers import images
from tests.helpers import ROOT, lora

FOLDER = ROOT / "configs"
NAMES = [name for name in presets.names(FOLDER) if name != "smoke"]


def test_the_presets_that_were_promised_are_there():
    promised = {
        *("sd15", "sdxl", "sd3", "flux", "lumina", "hunyuan-image", "anima"),
        *("loraplus", "robust", "prodigy", "quality", "low-vram", "multi-gpu", "ultimate"),
    }
    assert promised <= set(NAMES)


@pytest.mark.upstream
@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_right_for_the_pin_without_a_warning(name, real, tmp_path):
    path = tmp_path / f"{name}.toml"
    path.write_text((FOLDER / f"{name}.toml").read_text(encoding="utf-8"), encoding="utf-8")
    for model in re.findall(r'"(models/[^"]+)"', path.read_text(encoding="utf-8")):
        (tmp_path / model).parent.mkdir(exist_ok=True)
        (tmp_path / model).write_text("")
    images(tmp_path / "data/images")
    loaded = load(path, environ={})
    assert check(loaded, real[loaded.script], Machine(runtime=())) == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_in_its_first_line_what_it_is_for(name):
    assert (FOLDER / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_can_be_filled_and_keeps_its_comments(name, tmp_path):
    preset = FOLDER / f"{name}.toml"
    asked = presets.questions(preset)
    assert set(asked) == {"model", "images", "output_dir"}
    answers = {"model": 'C:\\models\\"x".safetensors', "images": "/my images", "output_dir": "o"}
    text = presets.fill(preset, answers, ("seed=7", "max_train_epochs=3"))
    made = tmp_path / "made.toml"
    made.write_text(text, encoding="utf-8")
    data = load(made, environ={})
    assert data.values["pretrained_model_name_or_path"] == answers["model"]
    assert data.datasets[0]["subsets"][0]["image_dir"] == "/my images"
    assert (data.values["output_dir"], data.values["seed"], data.values["max_train_epochs"]) == ("o", 7, 3)
    assert text.count("#") == preset.read_text(encoding="utf-8").count("#")
    assert read(made).data.keys() == read(preset).data.keys()


def test_a_preset_that_there_is_not_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no preset `low-vam`") as caught:
        presets.find(FOLDER, "low-vam")
    assert caught.value.hint == "did you mean `low-vram`?"


def test_a_setting_that_the_preset_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="does not have it"):
        presets.fill(FOLDER / "sdxl.toml", {}, ("noise_offset=1",))


def test_a_new_configuration_in_another_folder_has_every_path_as_seen_from_there(tmp_path):
    (tmp_path / "sub").mkdir()
    given = ("--model", "models/m.safetensors", "--images", "cats", "--output-dir", "results")
    assert lora("config", "new", "sub/own", "--preset", "sd15", *given, cwd=tmp_path).code == 0
    text = (tmp_path / "sub/own.toml").read_text(encoding="utf-8")
    assert 'output_name = "own"' in text
    for path in ("../models/m.safetensors", "../cats", "../results"):
        assert f' = "{path}"' in text


def test_the_paths_of_a_preset_are_seen_from_the_current_folder_and_a_path_out_of_its_own_from_there(tmp_path):
    (tmp_path / "sub").mkdir()
    for preset in ("sd15", "smoke"):
        assert lora("config", "new", f"sub/{preset}", "--preset", preset, cwd=tmp_path).code == 0
    text = (tmp_path / "sub/sd15.toml").read_text(encoding="utf-8")
    assert all(
        f' = "../{path}"' in text for path in ("output", "data/images", "models/v1-5-pruned-emaonly.safetensors")
    )
    smoke = load(tmp_path / "sub/smoke.toml", environ={})
    assert smoke.absolute(smoke.values["output_dir"]) == str(FOLDER.parent / "output" / "smoke")
    assert "${LORA_CACHE}" in smoke.datasets[0]["subsets"][0]["image_dir"]


@pytest.mark.parametrize("preset", NAMES)
def test_every_path_of_a_preset_moves_with_the_configuration(preset, tmp_path):
    (tmp_path / "sub").mkdir()
    assert lora("config", "new", f"sub/{preset}", "--preset", preset, cwd=tmp_path).code == 0
    before, after = (read(each / f"{preset}.toml").data for each in (FOLDER, tmp_path / "sub"))
    moved = {path: text for path, text in texts(before) if text.startswith(("models/", "data/")) or text == "output"}
    assert len(moved) >= 3
    assert {path: value_at(after, path) for path in moved} == {path: f"../{text}" for path, text in moved.items()}
    # a name that is no path stays, whatever it looks like
    kept = {path: text for path, text in texts(before) if path not in moved and path[-1] != "output_name"}
    assert {path: value_at(after, path) for path in kept} == kept


def test_a_hub_id_is_refused_for_a_script_that_takes_a_file(tmp_path):
    given = ("--model", "black-forest-labs/FLUX.1-dev")
    ran = lora("config", "new", "own", "--preset", "flux", *given, cwd=tmp_path)
    assert (ran.code, (tmp_path / "own.toml").exists()) == (3, False)
    assert "flux_train_network takes a file, and black-forest-labs/FLUX.1-dev is none\nhint: give the file" in ran.err
    assert lora("config", "new", "own", "--preset", "sdxl", *given, cwd=tmp_path).code == 0


def test_a_name_that_is_not_utf_8_gives_a_file_that_can_be_read(tmp_path):
    assert lora("config", "new", "b\udcff", "--preset", "sd15", cwd=tmp_path).code == 0
    assert load(tmp_path / "b\udcff.toml", environ={}).values["output_name"] == "b\ufffd"


def test_a_name_of_ones_own_for_the_lora_counts(tmp_path):
    given = ("--preset", "sd15", "--set", 'output_name="mine"')
    assert lora("config", "new", "own", *given, cwd=tmp_path).code == 0
    assert load(tmp_path / "own.toml", environ={}).values["output_name"] == "mine"
