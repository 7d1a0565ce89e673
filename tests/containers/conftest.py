from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers import fake

IMAGE = "lora-training"


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake.Engine]:
    """A fake engine, which DOCKER_HOST names; it has the image, without labels."""
    made = fake.Engine(fake.lora(), {IMAGE: {}})
    # a socket's path has to be short
    server = fake.serve(made, tmp_path_factory.mktemp("e") / "s")
    monkeypatch.setenv("DOCKER_HOST", made.address)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path_factory.mktemp("no-docker-config")))
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def script(engine: fake.Engine, tmp_path: Path) -> Callable[[str], None]:
    """Have the image's entry point be a shell script."""

    def use(text: str) -> None:
        path = tmp_path / "entry.sh"
        path.write_text(text, encoding="utf-8")
        engine.command = ["sh", str(path)]

    return use
