"""Set-up of a fresh clone: the environment and the upstreams. Needs only Python >= 3.10 and its standard library.

`python -m lora_training.bootstrap [train|dev]`, called by `make`, is a command line of its own, since `lora` is not
installed yet. Each step is skipped when it is already done, and can be interrupted and run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# The packages for our own tests stay out of the user's environment, since `lora runs rerun` compares packages. Both
# environments have the same versions, and uv links their files, so the second one takes seconds and little space.
_FOLDERS = {"train": ".venv", "dev": ".venv-dev"}
_NEEDS = (3, 10)
_UPSTREAM_MISSING = 4
# For how many seconds `make` does not try an unreachable git host again.
_PAUSE_S = 600.0
_PACKAGES = (
    *("accelerate", "bitsandbytes", "click", "diffusers", "git", "numpy"),
    *("torch", "torchvision", "unidiff", "xformers"),
)


class SetupError(Exception):
    """Set-up cannot continue; the message is for the user."""


class Setup:
    """One checkout and its environment."""

    def __init__(self, root: Path, level: str) -> None:
        self.root = root
        self.state = root / ".lora"
        self.venv = root / _FOLDERS[level]
        self.stamp = self.venv / "lora-setup.json"
        self.level = level

    def run(self) -> None:
        """Run the steps that are not done yet."""
        self.state.mkdir(exist_ok=True)
        with self._lock():
            fresh = self._packages()
            self._trees(fresh=fresh)
        if fresh:
            say("ready")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Wait for another set-up of this checkout, such as `make test` beside `make train`."""
        import fcntl

        with (self.state / "setup.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another set-up is at work here; waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _packages(self) -> bool:
        """Install exactly the pinned packages; return whether anything had to be done."""
        done, wanted = self._done(), self._wanted(self.level)
        # there used to be one environment, which may contain the development packages
        if done in (wanted, self._wanted("dev")) and self._works():
            return False
        uv = self._uv()
        if not done or done.get("python") != wanted["python"] or not self._works():
            # without a stamp, an earlier set-up was interrupted, perhaps while it installed a package
            say(f"making {self.venv.name} with Python {wanted['python']}")
            self._call([uv, "venv", "--quiet", "--clear", "--no-python-downloads", "-p", sys.executable, self.venv])
        self.stamp.unlink(missing_ok=True)
        say("installing the training packages (a few GB, the first time)")
        pinned = self.root / "requirements" / f"{self.level}.txt"
        self._call([uv, "pip", "sync", "--require-hashes", "-p", self._python, pinned])
        self._install_tree(uv, self.root)
        self.stamp.write_text(json.dumps(wanted), encoding="utf-8")
        return True

    def _trees(self, *, fresh: bool) -> None:
        """Fetch the pinned trees, as far as they can be reached, and patch them."""
        self._lora("upstream", "sync", "transformers")
        has_upstream = self._sd_scripts()
        # `verify` looks for it among the packages
        self._transformers(fresh=fresh)
        # check first: a running training holds the lock that `apply` needs, but not against readers
        if self._lora("patch", "verify", allowed=(0, 1)) != 0:
            # a missing tree cannot be patched, and must not keep the other from being patched
            self._lora("patch", "apply", *([] if has_upstream else ["transformers"]))

    def _sd_scripts(self) -> bool:
        """Fetch sd-scripts; return whether it exists. After a failure, no new attempt is made for a while."""
        failed = self.state / "sd-scripts-unreachable"
        is_here = (self.root / "third_party" / "sd-scripts" / "train_network.py").exists()
        # the age is negative when the clock has been set back
        if not is_here and failed.exists() and 0 <= time.time() - failed.stat().st_mtime < _PAUSE_S:
            say("sd-scripts was out of reach a moment ago; `lora upstream sync` tries again at once")
            return False
        code = self._lora("upstream", "sync", "sd-scripts", allowed=(0, _UPSTREAM_MISSING))
        if code == 0:
            failed.unlink(missing_ok=True)
        else:
            failed.touch()
            say("going on without sd-scripts: only the smoke config will train")
        return code == 0

    def _transformers(self, *, fresh: bool) -> None:
        """Install transformers in place from the patched tree, so that the verified code is the code that runs."""
        installed = list(self.venv.glob("lib/python*/site-packages/__editable__.transformers-*.pth"))
        if fresh or not installed:
            self._install_tree(self._uv(), self.root / "third_party" / "transformers")

    def _install_tree(self, uv: Path, tree: Path) -> None:
        flags = ["--quiet", "--no-deps", "--no-build-isolation", "--offline"]
        self._call([uv, "pip", "install", *flags, "-p", self._python, "-e", tree])

    def _uv(self) -> Path:
        """Return the pinned uv, installed with pip into its own folder."""
        folder = self.state / "uv"
        pinned = self.root / "requirements" / "uv.txt"
        uv = folder / "bin" / "uv"
        stamp = folder / "lora-setup.sha256"
        digest = hashlib.sha256(pinned.read_bytes()).hexdigest()
        if not (stamp.exists() and stamp.read_text(encoding="utf-8") == digest and _succeeds([uv, "--version"])):
            say("bringing uv")
            shutil.rmtree(folder, ignore_errors=True)
            self._pip_install(folder, pinned)
            stamp.write_text(digest, encoding="utf-8")
        return uv

    def _pip_install(self, folder: Path, pinned: Path) -> None:
        quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
        flags = ["install", *quiet, "--require-hashes", "-r", str(pinned)]
        if _succeeds([sys.executable, "-m", "venv", folder]):
            self._call([folder / "bin" / "python", "-m", "pip", *flags], alone=True)
        elif _succeeds([sys.executable, "-m", "pip", "--version"]):
            # Debian's python3 has no ensurepip without the package python3-venv
            shutil.rmtree(folder, ignore_errors=True)
            self._call([sys.executable, "-m", "pip", *flags, "--target", str(folder)], alone=True)
        else:
            raise SetupError(f"{sys.executable} has neither venv nor pip\nhint: on Debian: apt install python3-venv")

    def _wanted(self, level: str) -> dict[str, str]:
        sources = [self.root / "requirements" / f"{level}.txt", self.root / "pyproject.toml"]
        digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
        python = ".".join(map(str, sys.version_info[:3]))
        return {"level": level, "packages": digest, "python": python, "root": str(self.root)}

    def _done(self) -> dict[str, str]:
        try:
            done = {str(key): str(value) for key, value in json.loads(self.stamp.read_text(encoding="utf-8")).items()}
        except (FileNotFoundError, ValueError, AttributeError):
            return {}
        # console scripts contain their folder's path, so an environment that was moved does not work
        return done if done.get("root") == str(self.root) else {}

    def _works(self) -> bool:
        """Return whether the main packages can be found; an empty folder does not count as a package."""
        missing = f"[name for name in {_PACKAGES} if importlib.util.find_spec(name) is None]"
        code = f"import importlib.util, sys; sys.exit(bool({missing}))"
        return (self.venv / "bin" / "lora").exists() and _succeeds([self._python, "-c", code])

    @property
    def _python(self) -> Path:
        return self.venv / "bin" / "python"

    def _lora(self, *args: str, allowed: Sequence[int] = (0,)) -> int:
        """Run `lora` on this checkout, also when the shell sets LORA_HOME."""
        return self._call([self._python, "-m", "lora_training", *args], allowed=allowed, quiet=True)

    def _call(
        self, argv: Sequence[str | Path], *, allowed: Sequence[int] = (0,), quiet: bool = False, alone: bool = False
    ) -> int:
        """Run a command and return its exit code. Raises SetupError for any but those allowed.

        With `alone`, it is killed by Ctrl-C, where pip would print a traceback of its own.
        """
        env = _environment() | {"LORA_HOME": str(self.root)}
        out = subprocess.DEVNULL if quiet else None
        words = [str(arg) for arg in argv]
        done = subprocess.run(words, cwd=self.root, env=env, check=False, stdout=out, start_new_session=alone)
        code = done.returncode
        if code not in allowed:
            raise SetupError(f"set-up stopped: `{' '.join(map(str, argv))}` ended with code {code}")
        return code


def _environment() -> dict[str, str]:
    # variables that a shell sets for other Python programs must not change the installation
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    if "PIP_INDEX_URL" in env:
        # a mirror that is set for pip is meant for uv as well
        env.setdefault("UV_DEFAULT_INDEX", env["PIP_INDEX_URL"])
    if not sys.stderr.isatty():
        env["UV_NO_PROGRESS"] = "1"
    return env


def _succeeds(argv: Sequence[str | Path]) -> bool:
    try:
        words = [str(arg) for arg in argv]
        return subprocess.run(words, env=_environment(), capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def say(text: str) -> None:
    """Print one line of progress."""
    sys.stderr.write(f"setup: {text}\n")


def main(argv: Sequence[str]) -> int:
    """Set up the checkout, for `train` or for `dev`; return the exit code."""
    if sys.version_info < _NEEDS:
        found = ".".join(map(str, sys.version_info[:2]))
        say(f"error: this is Python {found}, and 3.10 or newer is needed\nhint: make PYTHON=/path/to/python3 ...")
        return 2
    level = argv[0] if argv else "train"
    if level not in _FOLDERS:
        say(f"error: no such set of packages: {level}\nhint: one of {', '.join(_FOLDERS)}")
        return 2
    try:
        Setup(Path(__file__).resolve().parent.parent, level).run()
    except SetupError as exc:
        say(f"error: {exc}")
        return 1
    except OSError as exc:
        say(f"error: {exc.filename}: {exc.strerror}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; run it again and it goes on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
