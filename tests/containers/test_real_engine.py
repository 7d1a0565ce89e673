"""With the engine and the image of whoever runs the tests, where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lora_training.containers import connection
from lora_training.errors import EngineError
from lora_training.launch.container import IMAGE, RUN_LABEL
from tests.helpers import ROOT, lora


@pytest.fixture
def real() -> None:
    try:
        with connection.connected(os.environ) as engine:
            connection.labels(engine, IMAGE)
    except EngineError as exc:
        pytest.skip(f"needs a container engine with the image {IMAGE} (`make docker-build`): {exc.message}")


@pytest.mark.usefixtures("real")
def test_the_smoke_run_trains_in_a_real_container_and_its_files_are_ours(tmp_path: Path) -> None:
    sets = (f"output_dir={tmp_path}/out", "max_train_steps=2")
    words = [word for item in sets for word in ("--set", item)]
    # a name of the user's own choice, so that an older image is accepted
    ran = lora("train", ROOT / "configs" / "smoke.toml", *words, "--image", IMAGE, cwd=ROOT)
    assert ran.code == 0, ran.err
    assert f"trained   {tmp_path}/out/smoke.safetensors" in ran.out
    owners = {path.stat().st_uid for path in (tmp_path / "out").rglob("*")}
    assert owners == {os.getuid()}
    with connection.connected(os.environ) as engine:
        assert engine.api.containers(all=True, filters={"label": f"{RUN_LABEL}={tmp_path}/out/smoke.run"}) == []
