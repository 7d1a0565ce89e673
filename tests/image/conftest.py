from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.container import Base, Buildah, Image, config_of, megabytes

_TOOLS = ("buildah", "mmdebstrap", "unshare")
_ROOM_GB = 15


def _missing() -> str | None:
    """Why no image can be built here."""
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"the image's test needs {', '.join(lacking)}: `apt install buildah mmdebstrap`"
    if os.geteuid() != 0:
        return "the image's test makes namespaces and a Debian of its own, which takes root"
    if subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], check=False).returncode:
        return "the image's test needs namespaces, which this machine does not give"
    return None


@pytest.fixture(scope="session")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    reason = _missing()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("buildah")
    if shutil.disk_usage(folder).free < _ROOM_GB << 30:
        pytest.skip(f"the image's test needs {_ROOM_GB} GB of room in {folder}")
    storage = Buildah(folder)
    yield storage
    storage.remove()


@pytest.fixture(scope="session")
def base(buildah: Buildah) -> Base:
    """A small Debian with Python, made from its packages."""
    container = buildah("from", "scratch")
    root = buildah("mount", container)
    quick = ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
    leave_out = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "locale", "man")]
    made = subprocess.run(
        ["mmdebstrap", "--variant=minbase", "--include=python3,python3-venv", *quick, *leave_out, _suite(), root],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"the image's test needs Debian's packages: {made.stderr.strip().splitlines()[-1]}")
    weight = megabytes(Path(root))
    buildah("commit", "--rm", container, "base")
    return Base("localhost/base", weight)


def _suite() -> str:
    """This machine's own, where it is a Debian: its packages can be had, then."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"] if release["ID"] == "debian" else "stable"


@pytest.fixture(scope="session")
def beside_uv() -> Iterator[Path]:
    """A folder on the file system of uv's cache, so that packages are linked and not copied."""
    cache = Path(os.environ.get("UV_CACHE_DIR") or "~/.cache/uv").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="lora-image-", dir=cache.parent))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def built(buildah: Buildah, base: Base, beside_uv: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image from the Dockerfile, except that its environment stays in a folder outside.

    7 GB are written in half a minute, and committing and mounting them as a part of the image would do it twice more.
    """
    cache = Path(os.environ.get("UV_CACHE_DIR") or "~/.cache/uv").expanduser()
    venv = f"/srv/{beside_uv.name}/venv"
    arguments = {"BASE": base.name, "VENV": venv, "UV_CACHE": f"/srv/{cache.name}", "UV_LINK_MODE": "hardlink"}
    flags = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    ran = buildah.build(*flags, "--volume", f"{cache.parent}:/srv")
    assert ran.code == 0, ran.out + ran.err
    root = buildah("mount", buildah("from", "lora-training"))
    # what an engine makes of the image's folder when it makes the volume
    volume = tmp_path_factory.mktemp("volume") / "cache"
    shutil.copytree(Path(root) / "cache", volume)
    config = config_of(buildah("inspect", "--type", "image", "lora-training"))
    return Image(Path(root), config, {venv: beside_uv / "venv", "/cache": volume})
