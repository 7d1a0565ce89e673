from __future__ import annotations

import pytest

from lora_training.supervise.attempt import Ended
from lora_training.supervise.failures import classify


@pytest.mark.parametrize(
    ("line", "kind", "restartable"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "gpu-memory", False),
        ("OSError: [Errno 28] No space left on device", "disk-full", False),
        ("PIL.UnidentifiedImageError: cannot identify image file '/data/a cat.png'", "bad-image", False),
        ("zipfile.BadZipFile: File is not a zip file", "bad-cache", False),
        ("torch.distributed.DistBackendError: NCCL error in: ../x.cpp:1, unhandled cuda error", "nccl", True),
        ("train_network.py: error: unrecognized arguments: --nope", "bad-arguments", False),
        ("_pickle.UnpicklingError: Weights only load failed. This file can still be loaded", "bad-pickle", False),
        ("ValueError: nobody foresaw this", "exception", True),
        ("torch.AcceleratorError: CUDA error: device-side assert triggered", "gpu", True),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "gpu", True),
        ("RuntimeError: DataLoader worker (pid(s) 1, 2) is killed by signal: Killed. ", "memory", True),
        ("it just ended", "unknown", True),
    ],
)
def test_a_cause_is_read_from_the_end_of_the_log(line: str, kind: str, *, restartable: bool) -> None:
    failure = classify(Ended(1, ("step 1", line, "")))
    assert (failure.kind, failure.restartable) == (kind, restartable)
    assert "{" not in failure.sentence


def test_the_broken_image_is_named() -> None:
    line = "PIL.UnidentifiedImageError: cannot identify image file '/data/cat.png'"
    assert "/data/cat.png" in classify(Ended(1, (line,))).sentence


def test_upstreams_word_for_the_image_counts_where_pillow_names_none() -> None:
    log = (
        "ERROR    Error loading file: /data/a cat.PNG      dataset.py:99",
        "OSError: image file is truncated (7 bytes not processed)",
    )
    assert classify(Ended(1, log)).sentence == "an image cannot be read: /data/a cat.PNG"


@pytest.mark.parametrize(
    ("name", "what"), [("a_te_outputs", "text encoder outputs"), ("a_0064x0064_sd", "latent"), ("a_flux_te", "text")]
)
def test_the_damaged_cache_file_is_named_as_what_it_is(name: str, what: str) -> None:
    log = (
        f"ERROR    Error loading file: /my data/{name}.npz      caching.py:63",
        "Traceback (most recent call last):",
        "zipfile.BadZipFile: File is not a zip file",
    )
    failure = classify(Ended(1, log))
    assert failure.kind == "bad-cache"
    assert what in failure.sentence
    assert failure.sentence.endswith(f"damaged: /my data/{name}.npz")


def test_a_damaged_cache_file_without_a_name_can_be_found() -> None:
    failure = classify(Ended(1, ("zipfile.BadZipFile: File is not a zip file",)))
    assert failure.sentence == "a cache file of latents or text encoder outputs is damaged: see the log"
    assert "run.checks=all" in failure.mend


def test_a_rank_that_was_killed_is_read_from_torchruns_report() -> None:
    report = ("RuntimeError: Connection closed by peer", "  exitcode  : -9 (pid: 77)", "=====")
    assert classify(Ended(1, report)).kind == "memory"


def test_a_ranks_exception_counts_and_not_the_launchers_word_for_it() -> None:
    log = ("[rank1]: ValueError: it", "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")
    assert classify(Ended(1, log)).sentence == "training died of ValueError: it"
    assert classify(Ended(1, log[1:])).kind == "unknown"


def test_the_banner_of_a_patch_is_no_cause() -> None:
    banner = ("lora: runtime patch nan-guard: on", "lora: runtime patch progress: on")
    assert classify(Ended(-9, banner)).kind == "memory"
    assert classify(Ended(1, banner)).kind == "unknown"


def test_nan_guards_last_word_is_one() -> None:
    said = "error: 3 steps in a row had a loss or a gradient that is not finite"
    assert classify(Ended(6, (said,))).kind == "not-finite"


def test_a_kill_from_outside_is_most_likely_the_systems() -> None:
    failure = classify(Ended(-9))
    assert (failure.kind, failure.restartable) == ("memory", True)


def test_another_signal_is_named() -> None:
    assert "SIGSEGV" in classify(Ended(-11)).sentence


def test_a_stall_counts_as_what_it_is() -> None:
    assert classify(Ended(-9, stalled=True)).kind == "stalled"
