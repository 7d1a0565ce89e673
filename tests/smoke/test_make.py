from __future__ import annotations

from pathlib import Path

import pytest

from lora_training import clip
from lora_training.smoke.make import TOKENIZER, make

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a b") / "smoke"
    make(folder)
    return folder


def test_the_tokenizer_is_clips_own(bundle: Path) -> None:
    real = transformers.CLIPTokenizer.from_pretrained(bundle / TOKENIZER)
    assert len(real) == 49408
    assert real("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_every_byte_has_a_token_of_its_own(tmp_path: Path) -> None:
    clip.write(tmp_path / "t")
    real = transformers.CLIPTokenizer.from_pretrained(tmp_path / "t")
    ids = real("naïve 猫 \N{CAT FACE}").input_ids
    assert real.unk_token_id not in ids[1:-1]
    assert real.decode(ids, skip_special_tokens=True) == "naïve 猫 \N{CAT FACE}"


def test_there_is_a_caption_for_each_image(bundle: Path) -> None:
    images = sorted((bundle / "images").glob("*.png"))
    assert len(images) == 4
    assert all(image.with_suffix(".txt").read_text().startswith("smoke, ") for image in images)


def test_the_bundle_is_the_same_each_time(bundle: Path, tmp_path: Path) -> None:
    make(tmp_path / "again")
    for path in bundle.rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(bundle)).read_bytes()


def test_a_bundle_that_is_there_is_left_alone(bundle: Path) -> None:
    before = [(path, path.stat().st_mtime_ns) for path in sorted(bundle.rglob("*"))]
    make(bundle)
    assert before == [(path, path.stat().st_mtime_ns) for path in sorted(bundle.rglob("*"))]


def test_a_making_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lora_training.smoke.model.write", fail)
    with pytest.raises(MemoryError):
        make(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
