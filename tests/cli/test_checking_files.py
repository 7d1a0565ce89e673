"""`lora config check` finds what `lora train` would refuse before its start."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.helpers import ROOT, Ran, lora
from tests.preflight.helpers import checkpoint, cut, picture

pytest.importorskip("torch")
pytestmark = pytest.mark.upstream
TEXT = """script = "train_network"
pretrained_model_name_or_path = "org/model"
network_module = "networks.lora"
output_dir = "out"
learning_rate = 1e-4
{0}
[[datasets]]
resolution = 64
{1}
[[datasets.subsets]]
image_dir = "images"
caption_extension = ".txt"
"""


@pytest.fixture
def folder(tmp_path: Path, sd_scripts: Path) -> Path:
    """A right configuration, `c.toml`, with two images."""
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.png", (64, 64))
        (tmp_path / "images" / f"{name}.txt").write_text("a photo")
    return configured(tmp_path)


def configured(folder: Path, flags: str = "", dataset: str = "") -> Path:
    (folder / "c.toml").write_text(TEXT.format(flags, dataset), encoding="utf-8")
    return folder


def check(folder: Path, *more: str) -> Ran:
    return lora("config", "check", folder / "c.toml", *more, cwd=ROOT)


def problems(folder: Path) -> list[dict[str, object]]:
    return json.loads(check(folder, "--json").out)["files"][0]["problems"]


def train(folder: Path, *more: str) -> Ran:
    return lora("train", folder / "c.toml", *more, cwd=ROOT)


def test_a_fault_of_the_dataset_hides_none_of_the_model(folder: Path) -> None:
    (folder / "m.safetensors").write_text("<html>")
    text = (folder / "c.toml").read_text().replace("org/model", "m.safetensors").replace("= 64", '= [64, "64"]')
    (folder / "c.toml").write_text(text)
    said = [str(problem["message"]) for problem in problems(folder)]
    assert any("`resolution`" in message for message in said), said
    assert any("m.safetensors is a web page" in message for message in said), said


@pytest.mark.parametrize(
    ("key", "name"), [("train_data_dir", "gone"), ("dataset_config", "gone.toml"), ("in_json", "gone.json")]
)
def test_data_that_is_not_there_is_reported_once(folder: Path, key: str, name: str) -> None:
    text = TEXT.partition("[[datasets]]")[0].format('resolution = "64"\n[images]')
    (folder / "c.toml").write_text(f'{text}{key} = "{name}"\n')
    said = [str(each["message"]) for each in problems(folder)]
    assert [each for each in said if "gone" in each] == [f"`{key}`: {folder / name} does not exist"]
    assert not any("there are no images" in each for each in said)


def test_an_image_of_another_size_is_named_where_nothing_would_fit_it(folder: Path) -> None:
    large = picture(folder / "images" / "large.png", (200, 140))
    (folder / "images" / "large.txt").write_text("a photo")
    (only,) = problems(folder)
    assert f"{large} (200x140, not 64x64, and enable_bucket is off)" in str(only["message"])
    assert "set enable_bucket = true and min_bucket_reso = 64, or cache_latents = true" in str(only["hint"])
    assert "not of the size of `resolution`" in train(folder).err
    configured(folder, dataset="random_crop = true")
    assert problems(folder) == []
    configured(folder, flags="cache_latents = true")
    assert problems(folder) == []


def test_a_right_configuration_is_right(folder: Path) -> None:
    assert check(folder).code == 0
    assert problems(folder) == []


def test_cut_off_images_are_found_by_check_as_by_train_and_left_alone_when_quick(folder: Path) -> None:
    bad = cut(folder / "images" / "a.png")
    (only,) = problems(folder)
    assert only["severity"] == "error"
    assert str(bad) in str(only["message"])
    assert only["line"]
    assert check(folder).code == 1
    assert check(folder, "--quick").code == 0
    assert train(folder, "--dry-run").code == 0
    refused = train(folder)
    assert refused.code == 3
    assert str(only["message"]) in refused.err


def test_train_reports_the_faults_of_a_configuration_and_of_its_files_together_as_check_does(folder: Path) -> None:
    cut(folder / "images" / "a.png")
    (folder / "images" / "b.txt").write_bytes(b"\xff\xfea\0")
    configured(folder, "learning_rat = 1")
    with (folder / "c.toml").open("a") as file:
        file.write("[launch]\nnum_machines = 2\nnum_processes = 3\n")
    said = [str(problem["message"]) for problem in problems(folder)]
    assert len(said) == 4, said
    for refused in (train(folder, "--dry-run"), train(folder)):
        assert refused.code == 3
        assert all(message in refused.err for message in said), refused.err


def test_a_model_of_another_family_and_all_else_is_found_at_once(folder: Path) -> None:
    checkpoint(folder / "xl.safetensors", {"conditioner.embedders.1.model.a": (2, 2)})
    cut(folder / "images" / "a.png")
    configured(folder, 'vae = "xl.safetensors"\nseed = "x"\nlearning_rat = 1')
    sets = ("--set", "pretrained_model_name_or_path=" + str(folder / "xl.safetensors"))
    said = json.loads(check(folder, "--json", *sets).out)["files"][0]["problems"]
    keys = [problem["key"] for problem in said if problem["severity"] == "error"]
    assert sorted(keys) == ["datasets", "learning_rat", "pretrained_model_name_or_path", "seed"]
    assert any("is SDXL, which train_network does not train" in problem["message"] for problem in said)


def test_broken_caches_are_a_warning_and_stay_where_they_are(folder: Path) -> None:
    broken = folder / "images" / "a_0128x0128_sd.npz"
    broken.write_bytes(b"PK")
    configured(folder, "cache_latents = true\ncache_latents_to_disk = true")
    (only,) = problems(folder)
    assert only["severity"] == "warning"
    assert str(broken) in str(only["message"])
    assert broken.exists()
    assert check(folder).code == 0


def test_nothing_is_said_of_files_that_are_yet_to_be_made(sd_scripts: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LORA_CACHE": str(tmp_path / "cache")}
    assert lora("config", "check", ROOT / "configs" / "smoke.toml", cwd=ROOT, env=environment).code == 0


def test_a_named_state_that_does_not_hold_is_found(folder: Path) -> None:
    (folder / "state").mkdir()
    with (folder / "c.toml").open("a") as file:
        file.write('[run]\nresume = "state"\n')
    (only,) = problems(folder)
    assert only["key"] == "run.resume"
    assert "not a complete saved state" in str(only["message"])


def test_where_the_lora_goes_is_held_against_what_is_there_and_each_fault_is_said_once(folder: Path) -> None:
    (folder / "file").write_text("")
    for key, value in (("output_dir", "file"), ("output_name", "a/b"), ("save_model_as", "ckpt")):
        text = (configured(folder) / "c.toml").read_text()
        kept = text.replace('output_dir = "out"\n', "") if key == "output_dir" else text
        (folder / "c.toml").write_text(f'{key} = "{value}"\n{kept}')
        (only,) = problems(folder)
        assert (only["severity"], only["key"], only["line"]) == ("error", key, 1)
        assert train(folder).code != 0


def test_more_gpus_than_there_are_is_a_warning_and_what_no_machine_can_do_an_error(folder: Path) -> None:
    for launch, severity in (("gpu_ids = [900]", "warning"), ("num_machines = 2\nnum_processes = 3", "error")):
        configured(folder)
        with (folder / "c.toml").open("a") as file:
            file.write(f"[launch]\n{launch}\n")
        assert [problem["severity"] for problem in problems(folder)] == [severity]


def test_an_image_too_small_for_a_bucket_is_named_with_its_size_and_the_cure(folder: Path) -> None:
    small = picture(folder / "images" / "b.png", (200, 40))
    configured(folder, dataset="enable_bucket = true\nbucket_no_upscale = true\nmin_bucket_reso = 64")
    (only,) = problems(folder)
    assert only["severity"] == "error"
    assert f"{small} (200x40, which bucket_no_upscale rounds to " in str(only["message"])
    assert "set bucket_no_upscale = false" in str(only["hint"])
    refused = train(folder)
    assert refused.code == 3
    assert str(only["message"]) in refused.err
    configured(folder, dataset="enable_bucket = true\nmin_bucket_reso = 64")
    assert problems(folder) == []


def test_limits_of_buckets_that_do_nothing_are_a_warning_unless_upstream_insists_on_them(folder: Path) -> None:
    for limits, keys in (("", []), ("min_bucket_reso = 256\nmax_bucket_reso = 2048", ["min", "max"])):
        dataset = f"enable_bucket = true\nbucket_no_upscale = true\n{limits}"
        text = configured(folder, dataset=dataset) / "c.toml"
        text.write_text(text.read_text().replace("resolution = 64", "resolution = 512"))
        found = problems(folder)
        assert [problem["key"] for problem in found] == [f"datasets.0.{key}_bucket_reso" for key in keys]
        assert all("does nothing with bucket_no_upscale" in str(problem["message"]) for problem in found)
