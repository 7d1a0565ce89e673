"""`make docker-build` and `make docker-run`: the image with docker, podman or buildah. Standard library only.

What is left to the engine's own command line is left to it: this adds the labels, what a build behind a proxy or with
a warm cache needs, and buildah's way to run an image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from lora_training import workspace
from lora_training.errors import LoraError
from lora_training.launch import container
from lora_training.upstream import pins

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("docker", "podman", "buildah")
_PIN_ARGUMENTS = {"sd-scripts": "PIN_SD_SCRIPTS", "transformers": "PIN_TRANSFORMERS"}


def main(argv: list[str]) -> int:
    """Build or run; return the engine's exit code."""
    parser = argparse.ArgumentParser(prog="devtools.image", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=("build", "run"))
    parser.add_argument("--engine", choices=ENGINES, default="docker")
    parser.add_argument("--image", default=container.IMAGE)
    parser.add_argument("--with", dest="more", default="", help="More of the engine's own flags, as one string.")
    own, words = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    given = parser.parse_args(own)
    more = shlex.split(given.more)
    try:
        _check_there(given.engine)
        if given.what == "build":
            _check_buildkit(given.engine)
            return _call(build(given.engine, given.image, more))
        return _run(given.engine, given.image, more, words)
    except LoraError as exc:
        sys.stderr.write(f"error: {exc.message}\nhint: {exc.hint}\n")
        return 1
    except subprocess.CalledProcessError as exc:
        # the engine has printed the reason
        return int(exc.returncode)


def _check_there(engine: str) -> None:
    if shutil.which(engine) is None:
        others = " or ".join(f"ENGINE={name}" for name in ENGINES if shutil.which(name)) or "install one"
        raise LoraError(f"there is no {engine} here", hint=others)


def _check_buildkit(engine: str) -> None:
    """The Dockerfile mounts secrets, which docker's former builder does not know."""
    said = subprocess.run([engine, "build", "--help"], capture_output=True, text=True, check=False).stdout
    # without that text nothing is known, and the build itself fails or not
    if engine == "docker" and "--tag" in said and "--secret" not in said:
        raise LoraError(
            "this docker has no BuildKit, which the Dockerfile needs",
            hint="install docker's plugin buildx, or `export DOCKER_BUILDKIT=1` with docker 18.09 to 22,\n"
            "      or build with ENGINE=podman or ENGINE=buildah",
        )


def build(engine: str, image: str, more: list[str]) -> list[str]:
    """Return the command that builds the image."""
    flags = [word for name, value in labels().items() for word in ("--build-arg", f"{name}={value}")]
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates:
        flags += ["--secret", f"id=ca,src={certificates}"]
    if os.environ.get("PIP_INDEX_URL"):
        flags += ["--build-arg", f"PIP_INDEX_URL={os.environ['PIP_INDEX_URL']}"]
    if engine != "docker":
        # the format that has health checks
        flags += ["--format", "docker", *_uv_cache()]
    if engine == "buildah":
        flags += ["--isolation", "chroot", *_layers()]
    return [engine, "build", "-t", image, "--build-arg", f"IMAGE={image}", *flags, *more, str(ROOT)]


def labels() -> dict[str, str]:
    """Return the image's labels: commit, pins, digest of the lock file. The build checks them."""
    here = workspace.Workspace(ROOT)
    found = {argument: _pin(here, name) for name, argument in _PIN_ARGUMENTS.items()}
    lock = (here.patches / "patches.lock").read_bytes()
    return {"COMMIT": _commit(), **found, "PATCHES_SHA256": hashlib.sha256(lock).hexdigest()}


def _pin(here: workspace.Workspace, name: str) -> str:
    """Return the pin, by plain git where there is a repository: GitPython may not be installed here."""
    link = here.upstream(name).path.relative_to(ROOT)
    return _git("rev-parse", f":{link}") if (ROOT / ".git").exists() else pins.pin(here, name)


def _commit() -> str:
    """Return our own commit, marked when there are changes on top of it; empty where there is no repository."""
    return _git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")


def _git(*args: str) -> str:
    argv = ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *args]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _uv_cache() -> list[str]:
    """Return the flags that mount uv's cache, if there is one: installing from it needs no network."""
    folder = Path(os.path.expanduser(os.environ.get("UV_CACHE_DIR") or "~/.cache/uv"))  # noqa: PTH111 - never raises
    return ["--volume", f"{folder}:/mnt", "--build-arg", "UV_CACHE=/mnt"] if folder.is_dir() else []


def _layers() -> list[str]:
    """Return the flag that keeps the steps for the next build, but not with the vfs driver, which copies each whole."""
    driver = _said(["buildah", "info", "--format", "{{.store.GraphDriverName}}"])
    return ["--layers=false"] if driver == "vfs" else ["--layers"]


def _run(engine: str, image: str, more: list[str], words: list[str]) -> int:
    output = ROOT / "output"
    output.mkdir(exist_ok=True)
    if engine == "buildah":
        return _run_with_buildah(image, more, words)
    flags = ["--rm", "--shm-size", str(container.SHM_BYTES), "--stop-timeout", str(container.STOP_TIMEOUT_S)]
    flags += ["--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{output}:/out", "--volume", "lora-cache:/cache"]
    return _call([engine, "run", *flags, *more, image, *words])


def _run_with_buildah(image: str, more: list[str], words: list[str]) -> int:
    """Run a command in a working container of buildah, which ignores entry point and default command."""
    config = json.loads(_said(["buildah", "inspect", "--type", "image", image]))["OCIv1"]["config"]
    working = _said(["buildah", "from", image])
    try:
        command = [*config["Entrypoint"], *(words or config["Cmd"])]
        flags = ["--isolation", "chroot", "--user", f"{os.getuid()}:{os.getgid()}"]
        volume = ["--volume", f"{ROOT / 'output'}:/out"]
        return _call(["buildah", "run", *flags, *volume, *more, working, "--", *command])
    finally:
        _said(["buildah", "rm", working])


def _said(argv: list[str]) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _call(argv: list[str]) -> int:
    sys.stderr.write(shlex.join(argv) + "\n")
    return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
