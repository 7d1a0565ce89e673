from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lora_training.preflight import latents, listing
from tests.helpers import ROOT, write
from tests.preflight.helpers import job, nothing

if TYPE_CHECKING:
    from lora_training.preflight.job import Job
    from lora_training.problems import Problem

np = pytest.importorskip("numpy")
NAME = "a_0064x0048_sd.npz"


def cache(path: Path, **more: object) -> Path:
    np.savez(path, **{"latents_6x8": np.ones((4, 6, 8), np.float32), "original_size_6x8": np.array([64, 48]), **more})
    return path


def set_aside(work: Job) -> tuple[frozenset[str], list[Problem]]:
    held, outputs = latents.used(work, listing.subsets(work))
    return latents.rename_broken(work, held, outputs, nothing)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    np.savez(path, latents=np.array([{}], dtype=object))


def not_finite(path: Path) -> None:
    cache(path, latents_6x8=np.full((4, 6, 8), np.nan, np.float32))


def no_zip(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def inflates(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("latents.npy", "w", force_zip64=True) as part,
    ):
        np.lib.format.write_array_header_1_0(part, {"descr": "<f4", "fortran_order": False, "shape": (2**28,)})
        for _ in range(2**10):
            part.write(bytes(2**20))


def promises_much(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("latents.npy", "w") as part:
        np.lib.format.write_array_header_1_0(part, {"descr": "<f4", "fortran_order": False, "shape": (2**34,)})


def packed_otherwise(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("latents.npy", b"x")


def a_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize(
    "harm", [cut_short, flip_a_bit, empty, pickled, not_finite, no_zip, promises_much, packed_otherwise]
)
def test_a_broken_cache_is_set_aside_and_said_once(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    write(tmp_path, dict.fromkeys(["a.png", "b.png"], ""))
    bad, good = cache(tmp_path / NAME), cache(tmp_path / "b_0064x0048_sd.npz")
    harm(bad)
    content = bad.read_bytes()
    work = job(tmp_path, {"image_dir": str(tmp_path)}, cache_latents_to_disk=True)
    cached, (only,) = set_aside(work)
    assert only.severity == "warning"
    assert str(bad) in only.message
    assert bad.with_name(f"{NAME}.broken").read_bytes() == content
    assert not bad.exists()
    assert good.exists()
    assert cached == {str(tmp_path / "b.png")}
    assert set_aside(work) == (cached, [])


@pytest.mark.parametrize(
    ("harm", "words"),
    [(inflates, "would inflate to 1073741"), (promises_much, "shorter than"), (a_pipe, "no regular file")],
)
def test_a_cache_is_not_inflated_before_its_sizes_are_known(
    tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    """An address space that could not hold it: what reads it all the same dies of it."""
    write(tmp_path, {"a.png": ""})
    harm(tmp_path / NAME)
    code = f"""
import resource
import numpy
from lora_training.preflight import latents
resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29))
print(latents.damage({str(tmp_path / NAME)!r}))
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert words in done.stdout, done
    _, (only,) = set_aside(job(tmp_path, {"image_dir": str(tmp_path)}, cache_latents_to_disk=True))
    assert words in only.message


def test_only_what_upstream_will_read_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["a.png", "b_c.png"], ""))
    read = {"a_0064x0048_sd.npz", "a.npz", "b_c_0010x0010_sd.npz", "a_te_outputs.npz"}
    others = {"a_0064x0048_flux.npz", "z_0064x0048_sd.npz", "c_0010x0010_sd.npz", "notes.npz"}
    for name in read | others:
        empty(tmp_path / name)
    subset = {"image_dir": str(tmp_path)}
    assert set_aside(job(tmp_path, subset, cache_latents=True)) == (frozenset(), [])
    set_aside(job(tmp_path, subset, cache_latents_to_disk=True))
    assert {path.name for path in tmp_path.glob("*.npz")} == others | {"a_te_outputs.npz"}
    set_aside(job(tmp_path, subset, script="sdxl_train_network", cache_text_encoder_outputs_to_disk=True))
    assert {path.name for path in tmp_path.glob("*.npz")} == others


def test_outputs_of_a_text_encoder_may_be_infinite_but_must_open(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": ""})
    np.savez(tmp_path / "a_flux_te.npz", t5_out=np.full(3, -np.inf))
    work = job(
        tmp_path, {"image_dir": str(tmp_path)}, script="flux_train_network", cache_text_encoder_outputs_to_disk=True
    )
    assert set_aside(work)[1] == []
    cut_short(tmp_path / "a_flux_te.npz")
    assert len(set_aside(work)[1]) == 1


def test_one_that_cannot_be_set_aside_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: str) -> None:
        raise PermissionError(13, "Permission denied")

    write(tmp_path, {"a.png": ""})
    empty(tmp_path / NAME)
    monkeypatch.setattr("os.replace", refuse)
    (only,) = set_aside(job(tmp_path, {"image_dir": str(tmp_path)}, cache_latents_to_disk=True))[1]
    assert only.severity == "error"
    assert "Permission denied" in only.message
