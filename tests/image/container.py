"""The image built by buildah, and containers of it made with namespaces alone, so that no engine is needed.

A container here has what an engine gives it: the image's user, environment, folder and command, PID 1 of its own, no
network unless that is asked for, the volumes named, and a root file system that is read-only where that is asked for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT, Ran

# arguments: root, "ro" or "rw", user, working folder, number of volumes, each volume's folder and its place, command
_INSIDE = """
set -e
root=$1 mode=$2 user=$3 folder=$4 volumes=$5; shift 5
mount --make-rprivate /
mount --rbind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs tmp
while [ "$volumes" -gt 0 ]; do
  mkdir -p ".$2"
  mount --bind "$1" ".$2"
  shift 2; volumes=$((volumes - 1))
done
mount -o "remount,bind,$mode" "$root"
exec chroot --userspec="$user" --groups= "$root" sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""


class Buildah:
    """buildah with a storage of its own below `folder`, so that nobody's images are touched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._storage = ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]

    def __call__(self, *args: str | Path) -> str:
        """Run `buildah args`; its stdout. Raises CalledProcessError."""
        command = ["buildah", args[0], *self._storage, *args[1:]]
        return subprocess.run(map(str, command), check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def remove(self) -> None:
        """Everything in the storage, and the mounts that buildah leaves in it."""
        self("rm", "--all")
        mounts = (line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines())
        for mounted in sorted((path for path in mounts if path.startswith(f"{self._folder}/")), reverse=True):
            subprocess.run(["umount", mounted], check=True)
        shutil.rmtree(self._folder)

    def build(self, *flags: str | Path, context: Path = ROOT) -> Ran:
        """Build as `make docker-build` does, with more flags."""
        # a step that is kept is a copy of all that came before it, where there is no overlay
        words = [*self._storage, "--layers=false", *map(str, flags)]
        command = [sys.executable, "-m", "devtools.image", "build", "--engine", "buildah", "--with", " ".join(words)]
        done = subprocess.run(command, cwd=context, check=False, capture_output=True, text=True)
        return Ran(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Base:
    """An image to build on, and its weight."""

    name: str
    megabytes: int


def megabytes(*folders: Path, leave_out: str = "") -> int:
    """Return the size of folders in MB, without the entries named `leave_out`."""
    exclude = [f"--exclude={leave_out}"] if leave_out else []
    said = subprocess.run(["du", "-xcsm", *exclude, *folders], check=True, capture_output=True, text=True).stdout
    return int(said.splitlines()[-1].split()[0])


@dataclass(frozen=True)
class Image:
    """A built image: its file system, its configuration, and the folders that lie beside it as volumes."""

    root: Path
    config: dict[str, object]
    volumes: dict[str, Path]

    def start(
        self,
        *words: str,
        volumes: dict[str, Path],
        user: str | None = None,
        read_only: bool = False,
        network: str = "none",
    ) -> subprocess.Popen[str]:
        """`docker run --network none --user USER --read-only --tmpfs /tmp -v ... IMAGE WORDS`; or `--network host`."""
        command = [*self.config["Entrypoint"], *(words or self.config["Cmd"])]
        return self._start(command, volumes, user, read_only, network)

    def _start(
        self, command: list[str], volumes: dict[str, Path], user: str | None, read_only: bool, network: str = "none"
    ) -> subprocess.Popen[str]:
        mounts = [str(word) for place, folder in {**self.volumes, **volumes}.items() for word in (folder, place)]
        how = ["ro" if read_only else "rw", user or self.config["User"], self.config["WorkingDir"]]
        inside = ["sh", "-c", _INSIDE, "sh", str(self.root), *how, str(len(mounts) // 2), *mounts, *command]
        env = dict(line.split("=", 1) for line in self.config["Env"])
        own = ["--net"] if network == "none" else []
        argv = ["unshare", "--mount", "--pid", *own, "--fork", "--kill-child", *inside]
        return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(
        self, *words: str, volumes: dict[str, Path] | None = None, user: str | None = None, read_only: bool = False
    ) -> Ran:
        """The same to its end."""
        return finish(self.start(*words, volumes=volumes or {}, user=user, read_only=read_only))

    def run_instead(self, *command: str) -> Ran:
        """`docker run --entrypoint COMMAND`, as PID 1's child of the image's own init."""
        return finish(self._start(["tini", "-s", "--", *command], {}, None, False))


def finish(started: subprocess.Popen[str]) -> Ran:
    out, err = started.communicate()
    return Ran(started.returncode, out, err)


def stop(started: subprocess.Popen[str]) -> None:
    """What `docker stop` does first: SIGTERM to the container's PID 1."""
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text(encoding="ascii").split()
    os.kill(int(children[0]), signal.SIGTERM)


def config_of(inspected: str) -> dict[str, object]:
    """The configuration in what `buildah inspect` says."""
    found: dict[str, object] = json.loads(inspected)["OCIv1"]["config"]
    return found
