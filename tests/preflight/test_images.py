from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lora_training.app import start_checks
from lora_training.preflight import images, listing, scan
from lora_training.stat_cache import StatCache
from tests.preflight.helpers import cut, job, nothing, picture

if TYPE_CHECKING:
    from lora_training.preflight.job import Job
    from lora_training.problems import Problem

pytest.importorskip("PIL")
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def found(work: Job, *, cached: frozenset[str] = frozenset()) -> list[Problem]:
    subsets = listing.subsets(work)
    return images.missing(subsets) or list(images.problems(work, subsets, cached, nothing))


def test_all_images_that_do_not_decode_are_named_at_once(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    cut(picture(tmp_path / "a.jpg", (200, 200)))
    cut(picture(tmp_path / "b.png", (200, 200)))
    cut(picture(tmp_path / "c.webp", (200, 200)))
    cut(picture(tmp_path / "d.bmp", (200, 200)))
    (tmp_path / "e.png").write_text(LFS)
    (tmp_path / "f.jpg").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (tmp_path / "g.jpg").write_bytes(b"")
    (tmp_path / "h.png").mkdir()
    (tmp_path / "i.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "j.png")
    (only,) = found(job(tmp_path, {"image_dir": str(tmp_path)}))
    assert only.severity == "error"
    assert only.message.startswith("10 images do not decode: ")
    said = f"{only.message}\n{only.hint}"
    assert all(f"{tmp_path}/{name}" in said for name in ("a.jpg", "b.png", "c.webp", "d.bmp", "h.png", "j.png"))
    assert "good.png" not in said
    for name, why in {"e.png": "Git LFS", "f.jpg": "a web page", "g.jpg": "empty", "i.png": "No such file"}.items():
        assert f"{tmp_path}/{name} ({why}" in said or f"{tmp_path}/{name} (a {why}" in said


def test_of_many_the_first_ten_and_their_number_are_shown(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.png").write_bytes(b"x")
    (only,) = found(job(tmp_path, {"image_dir": str(tmp_path)}))
    assert only.message.startswith("25 images do not decode: ")
    assert "09.png" in (only.hint or "")
    assert "10.png" not in (only.hint or "")
    assert "and 15 more" in (only.hint or "")


def test_whatever_upstream_takes_is_taken(tmp_path: Path) -> None:
    from PIL import Image

    for mode, name in {
        "CMYK": "a.jpg",
        "L": "b.jpg",
        "RGBA": "c.png",
        "P": "d.png",
        "1": "e.png",
        "LA": "f.png",
    }.items():
        picture(tmp_path / name, mode=mode)
    picture(tmp_path / "sixteen.png", mode="I;16")
    picture(tmp_path / "progressive.jpg", (200, 200), progressive=True)
    picture(tmp_path / "animated.webp", save_all=True, append_images=[])
    picture(tmp_path / "really a.png").rename(tmp_path / "really a png.jpg")
    Image.new("1", (10_000, 9_000)).save(tmp_path / "past the limit at which PIL warns.png")
    picture(tmp_path / "ünïcode 图.png")
    assert found(job(tmp_path, {"image_dir": str(tmp_path)})) == []


def test_a_dataset_without_images_is_an_error(tmp_path: Path) -> None:
    picture(tmp_path / "mixed.png").rename(tmp_path / "mixed.Png")
    (only,) = found(job(tmp_path, {"image_dir": str(tmp_path)}))
    assert only.message == f"there are no images in {tmp_path}"
    assert only.severity == "error"


def test_an_image_that_upstream_does_not_open_is_no_error(tmp_path: Path) -> None:
    """Its latents are cached; or it is left out for its size."""
    bad = cut(picture(tmp_path / "a.png", (200, 200)))
    (only,) = found(job(tmp_path, {"image_dir": str(tmp_path)}), cached=frozenset({str(bad)}))
    assert only.severity == "warning"
    small = {"image_dir": str(tmp_path), "skip_image_resolution": 512}
    assert found(job(tmp_path, small)) == []
    assert len(found(job(tmp_path, {**small, "skip_image_resolution": [10, 10]}))) == 1


def test_quick_decodes_no_image_but_wants_some(tmp_path: Path) -> None:
    bad = cut(picture(tmp_path / "a.png", (200, 200)))
    work = job(tmp_path, {"image_dir": str(tmp_path)})
    assert start_checks.of_files(work, nothing, "quick") == []
    bad.unlink()
    assert len(start_checks.of_files(work, nothing, "quick")) == 1


def test_formats_that_upstream_does_not_list_are_refused_whatever_their_name(tmp_path: Path) -> None:
    from PIL import Image

    for form in ("GIF", "TIFF", "EPS", "PPM", "ICO", "TGA"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{form}.png", form)
    Image.new("RGB", (40, 40)).save(tmp_path / "of a camera.jpg", "MPO", save_all=True)
    for form in ("PNG", "JPEG", "WEBP", "BMP"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{form}.bmp", form)
    for depth in ("none", "quick", "all"):
        (only,) = start_checks.of_files(job(tmp_path, {"image_dir": str(tmp_path)}), nothing, depth)
        assert only.message.startswith("6 images are not PNG, JPEG, WEBP, BMP"), only
        assert all(f"{form}.png (" in f"{only.message}\n{only.hint}" for form in ("GIF", "TIFF", "EPS", "PPM", "ICO"))


def test_what_was_good_is_not_opened_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(images, "decode", lambda path, decode=images.decode: (opened.append(path), decode(path))[1])
    folder = tmp_path / "images"
    good, bad = picture(folder / "good.png"), cut(picture(folder / "bad.png", (200, 200)))
    work = job(tmp_path, {"image_dir": str(folder)}, cache=tmp_path / "cache")
    assert len(found(work)) == 1
    assert sorted(opened) == [str(bad), str(good)]
    opened.clear()
    assert len(found(work)) == 1
    assert opened == [str(bad)]
    # mended, and then the good one is replaced by one of the same size and time
    picture(bad)
    before = good.stat()
    good.with_name("new").write_bytes(bytes(before.st_size))
    good.with_name("new").replace(good)
    os.utime(good, ns=(before.st_atime_ns, before.st_mtime_ns))
    (only,) = found(work)
    assert str(good) in only.message


@pytest.mark.parametrize("harm", ["", "[]", "{", '{"a.png": 3}'])
def test_a_memory_that_is_damaged_or_cannot_be_written_is_done_without(tmp_path: Path, harm: str) -> None:
    picture(tmp_path / "images" / "a.png")
    work = job(tmp_path, {"image_dir": str(tmp_path / "images")}, cache=tmp_path / "cache")
    assert found(work) == []
    for file in (tmp_path / "cache").iterdir():
        file.write_text(harm)
    assert found(work) == []
    (tmp_path / "a file").write_text("")
    assert found(job(tmp_path, {"image_dir": str(tmp_path / "images")}, cache=tmp_path / "a file" / "x")) == []


def test_an_interrupt_keeps_what_was_found_good(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number:03}") for number in range(200)]
    for path in paths:
        Path(path).write_text("good")

    def interrupt(text: str) -> None:
        if "100 of 200 (50 %)" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan.broken(paths, lambda _path: None, StatCache(tmp_path / "cache", "x"), "files", interrupt)
    left = StatCache(tmp_path / "cache", "x").unknown(paths)
    assert len(left) == 100
    assert len(StatCache(tmp_path / "cache", "another judge").unknown(paths)) == 200


def test_a_bug_in_a_check_is_not_swallowed(tmp_path: Path) -> None:
    def check(path: str) -> str | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        scan.broken(["a"], check, StatCache(None, "x"), "files", nothing)
