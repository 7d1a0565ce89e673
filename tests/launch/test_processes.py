from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lora_training.config.tables import LaunchTable
from lora_training.errors import ConfigError
from lora_training.launch.spec import Processes, resolve
from tests.helpers import ROOT, lora


def of(gpus: int, **wanted: Any) -> Processes:
    return resolve(LaunchTable(**wanted), lambda: gpus)


def test_nothing_asked_for_is_one_process_and_the_gpus_are_not_looked_for() -> None:
    def never() -> int:
        raise AssertionError

    assert resolve(LaunchTable(num_processes=1), never) == resolve(LaunchTable(), never) == Processes()


@pytest.mark.parametrize(
    ("gpus", "wanted", "count", "cpu"),
    [
        (4, {"num_processes": "auto"}, 4, False),
        (0, {"num_processes": "auto"}, 1, True),
        (0, {"num_processes": 3}, 3, True),
        (4, {"num_processes": "auto", "gpu_ids": (1, 3)}, 2, False),
        (4, {"gpu_ids": (2,)}, 1, False),
        (4, {"gpu_ids": (0, 1, 2)}, 3, False),
        (4, {"num_processes": 4}, 4, False),
        (2, {"num_processes": "auto", "num_machines": 3, "main_process_ip": "a"}, 6, False),
        (2, {"num_processes": 2, "num_machines": 2, "main_process_ip": "a"}, 2, False),
    ],
)
def test_how_many_there_will_be(gpus: int, wanted: dict[str, Any], count: int, cpu: bool) -> None:
    found = of(gpus, **wanted)
    assert (found.count, found.cpu) == (count, cpu)


@pytest.mark.parametrize(
    ("gpus", "wanted", "words"),
    [
        (2, {"num_processes": 3}, "asks for 3 GPUs on this machine, and there are 2"),
        (4, {"num_processes": 3, "gpu_ids": (0, 1)}, "asks for 3 GPUs on this machine, and there are 2"),
        (2, {"gpu_ids": (0, 2, 5)}, "there is no GPU 2, 5 on this machine, which has 2"),
        (0, {"gpu_ids": (0,)}, "there is no GPU 0 on this machine, which has 0"),
        (4, {"num_processes": 3, "num_machines": 2, "main_process_ip": "a"}, "cannot be shared out evenly"),
        (1, {"num_processes": 4, "num_machines": 2, "main_process_ip": "a"}, "asks for 2 GPUs on this machine"),
        (0, {"num_processes": 2, "distributed_backend": "nccl"}, "needs GPUs"),
        (4, {"num_processes": 4, "num_machines": 2}, "needs main_process_ip"),
        (4, {"num_machines": 2, "main_process_ip": "a", "backend": "filestore"}, "is for one machine"),
    ],
)
def test_what_cannot_be_is_refused(gpus: int, wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        of(gpus, **wanted)
    assert caught.value.hint


def test_machines_meet_at_accelerates_port_unless_another_is_named() -> None:
    several = {"num_processes": 4, "num_machines": 2, "machine_rank": 1, "main_process_ip": "10.0.0.1"}
    assert of(2, **several).port == 29500
    named = of(2, **several, main_process_port=1234, rdzv_backend="c10d")
    assert (named.ip, named.port, named.machine_rank, named.rdzv_backend) == ("10.0.0.1", 1234, 1, "c10d")


def test_more_gpus_than_any_machine_has_end_the_command_before_anything_is_looked_at(tmp_path: Path) -> None:
    sets = ("--set", "launch.gpu_ids=[1000]", "--set", f"output_dir={tmp_path / 'out'}")
    ran = lora("train", ROOT / "configs" / "smoke.toml", *sets, cwd=ROOT)
    assert ran.code == 3
    assert "error: [launch] gpu_ids: there is no GPU 1000" in ran.err
    assert list(tmp_path.iterdir()) == []
