"""The folders and files that are mounted into a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.app.container import make_folders, mounts_of
from lora_training.config.files import NamedPath
from lora_training.errors import ConfigError
from lora_training.launch.container import Mount
from tests.helpers import write
from tests.trees import listing


def test_inputs_are_mounted_where_they_are_and_read_only(tmp_path: Path) -> None:
    write(tmp_path, {"m/model.safetensors": "", "images/1.png": ""})
    places = [
        NamedPath("model", tmp_path / "m" / "model.safetensors"),
        NamedPath("image_dir", tmp_path / "images", written=True),
    ]
    images, model = mounts_of(places, {})
    assert images == Mount(f"{tmp_path}/images", f"{tmp_path}/images", writable=True)
    assert model == Mount(f"{tmp_path}/m/model.safetensors", f"{tmp_path}/m/model.safetensors")


def test_outputs_are_made_first_so_that_they_are_the_callers(tmp_path: Path) -> None:
    places = [
        NamedPath("output_dir", tmp_path / "a" / "out", written=True, made=True),
        NamedPath("console_log_file", tmp_path / "logs" / "x.log", written=True, made=True),
    ]
    mounts = mounts_of(places, {"/cache/huggingface": tmp_path / "hub"})
    make_folders(mounts)
    assert [(mount.target, mount.writable) for mount in mounts] == [
        ("/cache/huggingface", True),
        (f"{tmp_path}/a/out", True),
        (f"{tmp_path}/logs", True),
    ]
    assert all(Path(mount.source).is_dir() for mount in mounts)
    assert not (tmp_path / "logs" / "x.log").exists()


def test_what_lies_within_another_output_is_left_to_the_training(tmp_path: Path) -> None:
    """The smoke run's model is made when its folder is missing, and its tokenizer's folder is named as an output."""
    cache, tokenizer = tmp_path / "cache", tmp_path / "cache" / "smoke" / "tokenizer"
    mounts = mounts_of([NamedPath("tokenizer_cache_dir", tokenizer, written=True, made=True)], {str(cache): cache})
    assert mounts == (Mount(str(cache), str(cache), writable=True),)
    make_folders(mounts)
    assert list(cache.iterdir()) == []


def test_nothing_is_made_to_be_shown_only(tmp_path: Path) -> None:
    before = listing(tmp_path)
    out = tmp_path / "out"
    (mount,) = mounts_of([NamedPath("output_dir", out, written=True, made=True)], {})
    assert mount == Mount(str(out), str(out), writable=True)
    assert listing(tmp_path) == before


def test_an_input_that_is_not_there_is_not_mounted_and_not_made(tmp_path: Path) -> None:
    assert mounts_of([NamedPath("vae", tmp_path / "gone")], {}) == ()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_made_is_exit_3(tmp_path: Path) -> None:
    write(tmp_path, {"file": ""})
    mounts = mounts_of([NamedPath("output_dir", tmp_path / "file" / "out", written=True, made=True)], {})
    with pytest.raises(ConfigError, match="cannot make"):
        make_folders(mounts)


def test_a_linked_folder_is_mounted_under_the_name_that_the_configuration_has(tmp_path: Path) -> None:
    write(tmp_path, {"big/cats/1.png": ""})
    (tmp_path / "cats").symlink_to("big/cats")
    assert mounts_of([NamedPath("image_dir", tmp_path / "cats")], {}) == (
        Mount(f"{tmp_path}/big/cats", f"{tmp_path}/cats"),
    )


def test_what_linked_images_lead_to_is_mounted_once(tmp_path: Path) -> None:
    write(tmp_path, {"pool/1.png": "", "pool/2.png": "", "pool/3.png": "", "cats/4.png": ""})
    for number in (1, 2):
        (tmp_path / "cats" / f"{number}.png").symlink_to(tmp_path / "pool" / f"{number}.png")
    (tmp_path / "cats" / "5.png").symlink_to("4.png")
    (tmp_path / "cats" / "6.png").symlink_to("nowhere")
    places = [NamedPath("image_dir", tmp_path / "cats", written=True)]
    assert mounts_of(places, {}) == (
        Mount(f"{tmp_path}/cats", f"{tmp_path}/cats", writable=True),
        Mount(f"{tmp_path}/pool", f"{tmp_path}/pool"),
    )


def test_a_relative_link_is_followed_from_where_the_container_has_it(tmp_path: Path) -> None:
    """As in a snapshot of the hub's cache, reached by a link itself."""
    write(tmp_path, {"hub/blobs/abc": "", "hub/snapshots/1/model/x.json": ""})
    (tmp_path / "hub" / "snapshots" / "1" / "model" / "w.safetensors").symlink_to("../../../blobs/abc")
    (tmp_path / "models" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "models" / "deep" / "er" / "mine").symlink_to(tmp_path / "hub" / "snapshots" / "1")
    mounts = mounts_of([NamedPath("model", tmp_path / "models" / "deep" / "er" / "mine")], {})
    assert set(mounts) == {
        Mount(f"{tmp_path}/hub/snapshots/1", f"{tmp_path}/models/deep/er/mine"),
        Mount(f"{tmp_path}/hub/blobs", f"{tmp_path}/models/deep/blobs"),
    }


def test_links_are_followed_hop_by_hop(tmp_path: Path) -> None:
    write(tmp_path, {"c/1.png": "", "a/x": "", "b/x": ""})
    (tmp_path / "b" / "1.png").symlink_to(tmp_path / "c" / "1.png")
    (tmp_path / "a" / "1.png").symlink_to(tmp_path / "b" / "1.png")
    assert [mount.target for mount in mounts_of([NamedPath("image_dir", tmp_path / "a")], {})] == [
        f"{tmp_path}/a",
        f"{tmp_path}/b",
        f"{tmp_path}/c",
    ]


def test_a_link_in_a_circle_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").symlink_to("y")
    (tmp_path / "a" / "y").symlink_to("x")
    assert len(mounts_of([NamedPath("image_dir", tmp_path / "a")], {})) == 1
