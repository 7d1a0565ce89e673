from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lora_training.preflight import listing
from tests.helpers import write
from tests.preflight.helpers import job


def names(found: list[listing.Subset], folder: Path) -> list[list[str]]:
    return [[str(Path(image).relative_to(folder)) for image in subset.images] for subset in found]


def test_a_folder_gives_its_images_and_not_those_of_its_folders(tmp_path: Path) -> None:
    files = ["b.png", "a.JPG", "c.jpeg", "d.Png", ".e.png", "f.txt", "sub/g.png", "h.webp", "i.BMP", "j.gif", "k.npz"]
    write(tmp_path, dict.fromkeys(files, ""))
    found = listing.subsets(job(tmp_path, {"image_dir": str(tmp_path)}))
    assert names(found, tmp_path) == [["a.JPG", "b.png", "c.jpeg", "h.webp", "i.BMP"]]


def test_subsets_that_upstream_ignores_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, {"a/x.png": "", "b/y.png": ""})
    one, other = {"image_dir": str(tmp_path / "a")}, {"image_dir": str(tmp_path / "b")}
    found = listing.subsets(job(tmp_path, one, {**one, "num_repeats": 3}, {**other, "num_repeats": 0}))
    assert names(found, tmp_path) == [["a/x.png"]]
    assert found[0].repeats == 1


def test_the_folders_of_train_data_dir_are_named_after_their_repeats(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["in/10_c/a.png", "in/2/b.png", "in/c/c.png", "in/0_x/d.png", "reg/1_y/e.png"], ""))
    found = listing.subsets(job(tmp_path, train_data_dir=tmp_path / "in", reg_data_dir=tmp_path / "reg"))
    assert names(found, tmp_path) == [["in/10_c/a.png"], ["in/2/b.png"], ["reg/1_y/e.png"]]
    assert [subset.repeats for subset in found] == [10, 2, 1]


def test_a_metadata_file_names_images_with_or_without_their_ending(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "c.png"
    write(tmp_path, dict.fromkeys(["in/a.png", "in/b.jpg", "elsewhere/c.png"], ""))
    metadata = {"a.png": {}, "b": {}, str(elsewhere): {}, "gone": {}}
    (tmp_path / "meta.json").write_text(json.dumps(metadata))
    (tmp_path / "meta.jsonl").write_text("\n".join(json.dumps({"image_path": key}) for key in metadata))
    for name in ("meta.json", "meta.jsonl"):
        table = {"metadata_file": str(tmp_path / name), "image_dir": str(tmp_path / "in")}
        found = listing.subsets(job(tmp_path, table))
        assert names(found, tmp_path) == [["in/a.png", "in/b.jpg", "elsewhere/c.png", "in/gone"]]
    assert listing.subsets(job(tmp_path, in_json=tmp_path / "meta.json", train_data_dir=tmp_path / "in")) != []


def test_a_dataset_configuration_of_upstreams_own_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"in/a.png": "", "own.toml": '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "in"\n'})
    assert names(listing.subsets(job(tmp_path, dataset_config="own.toml")), tmp_path) == [["in/a.png"]]


@pytest.mark.parametrize("text", ["", "[1]", '{"a.png"', '{"a.png": {}}'])
def test_a_list_of_images_that_cannot_be_read_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(listing.Unreadable, match=r"meta\.json"):
        listing.subsets(job(tmp_path, {"metadata_file": str(tmp_path / "meta.json")}))


def test_conditioning_images_belong_to_their_images(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["in/a.png", "in/b.png", "beside/a.jpg", "beside/z.jpg"], ""))
    table = {"image_dir": str(tmp_path / "in"), "conditioning_data_dir": str(tmp_path / "beside")}
    (found,) = listing.subsets(job(tmp_path, table))
    assert found.extra == (str(tmp_path / "beside" / "a.jpg"),)


@pytest.mark.parametrize("text", ["datasets = 3", "[[datasets]]\nsubsets = [1]", "datasets"])
def test_a_dataset_configuration_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(listing.Unreadable, match=r"own\.toml"):
        listing.subsets(job(tmp_path, dataset_config="own.toml"))


@pytest.mark.parametrize("option", ['batch_size = "x"', "num_repeats = [2]", "bucket_reso_steps = 1.5"])
def test_an_option_of_upstreams_own_file_that_is_no_number_is_said(tmp_path: Path, option: str) -> None:
    (tmp_path / "own.toml").write_text(f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "in"\n{option}\n')
    with pytest.raises(listing.Unreadable, match=r"own\.toml.* must be a whole number"):
        listing.subsets(job(tmp_path, dataset_config="own.toml"))


def test_a_plugin_that_does_not_import_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"pillow_avif.py": "raise RuntimeError", "pillow_jxl.py": ""})
    monkeypatch.syspath_prepend(tmp_path)
    listing.extensions.cache_clear()
    try:
        assert {".jxl", ".JXL"} <= set(listing.extensions())
        assert ".avif" not in listing.extensions()
    finally:
        listing.extensions.cache_clear()
        sys.modules.pop("pillow_jxl", None)
