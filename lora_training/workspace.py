"""Where things are: the checkout, its upstreams and pins, and the folders that we write to."""

from __future__ import annotations

import configparser
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from lora_training.errors import LoraError, UpstreamError

HOME_VARIABLE = "LORA_HOME"
CACHE_VARIABLE = "LORA_CACHE"
RUNS_VARIABLE = "LORA_RUNS"
_MARKERS = (".gitmodules", "patches")


@dataclass(frozen=True)
class Upstream:
    """A third-party source tree that we pin.

    `path` is absolute; `url` is the address in `.gitmodules`, before any `url.<base>.insteadOf` of the user's.
    """

    name: str
    path: Path
    url: str


@dataclass(frozen=True)
class Workspace:
    """A checkout of this project."""

    root: Path

    @property
    def patches(self) -> Path:
        """The folder of patch files, one folder an upstream, and of `patches.lock`."""
        return self.root / "patches"

    @property
    def state(self) -> Path:
        """The folder for caches and records of this checkout; safe to delete when no command runs."""
        return self.root / ".lora"

    @property
    def begun_bump(self) -> Path:
        """A note of a move to another commit of an upstream, there until all of it is done."""
        return self.state / "patching" / "bump.json"

    @property
    def cache(self) -> Path:
        """What can be made again: smoke models and images, schemas. `LORA_CACHE` moves it."""
        return _named_by(CACHE_VARIABLE) or self.state / "cache"

    @property
    def runs(self) -> Path:
        """The list of runs: a small file each. `LORA_RUNS` names another one, for trials that are not to be in it."""
        return _named_by(RUNS_VARIABLE) or self.state / "runs"

    @property
    def queue(self) -> Path:
        """The jobs of the queue, beside the list of runs."""
        return self.runs / "queue"

    @property
    def upstreams(self) -> dict[str, Upstream]:
        """Every upstream that `.gitmodules` names, by the last part of its path, in the file's order."""
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(self._gitmodules())
            found = [self._upstream(parser[section]) for section in parser.sections()]
        except (configparser.Error, KeyError, OSError, UnicodeDecodeError) as exc:
            raise UpstreamError(f"{self.root / '.gitmodules'} cannot be read: {exc}") from exc
        return {upstream.name: upstream for upstream in found}

    def upstream(self, name: str) -> Upstream:
        """The upstream of that name. Raises UpstreamError, naming those there are."""
        try:
            return self.upstreams[name]
        except KeyError:
            known = ", ".join(self.upstreams)
            raise UpstreamError(f"there is no upstream named {name!r}", hint=f"known upstreams: {known}") from None

    def _gitmodules(self) -> str:
        # git indents with tabs, which configparser would read as continuation lines
        lines = (self.root / ".gitmodules").read_text(encoding="utf-8").splitlines()
        return "\n".join(line.strip() for line in lines)

    def _upstream(self, section: configparser.SectionProxy) -> Upstream:
        path = section["path"]
        parts = Path(path).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise UpstreamError(f"{self.root / '.gitmodules'} names a folder outside of the checkout: {path!r}")
        return Upstream(name=Path(path).name, path=self.root / path, url=section["url"])


def find() -> Workspace:
    """The checkout to work on: `LORA_HOME`, else the one that this package lies in.

    Raises LoraError when there is none, and when the current folder lies in another one. What lies in a checkout is
    trusted, and a folder that came with somebody's files must not become one because a command was given in it.
    """
    if named := _named_by(HOME_VARIABLE):
        if not _is_checkout(named):
            hint = f"it has no {' and '.join(_MARKERS)}"
            raise LoraError(f"{HOME_VARIABLE}={named} is not a checkout", hint=hint)
        return Workspace(named)
    own, around = _checkout_around(Path(__file__).resolve().parent), _checkout_around(_current_folder())
    if around and not (own and around.samefile(own)):
        raise _not_own(around, own)
    if own:
        return Workspace(own)
    raise LoraError("no checkout of lora-training found here or above", hint=f"set {HOME_VARIABLE} to its folder")


def _checkout_around(folder: Path) -> Path | None:
    return next((each for each in (folder, *folder.parents) if _is_checkout(each)), None)


def _not_own(around: Path, own: Path | None) -> LoraError:
    hint = f"if you trust its files, {HOME_VARIABLE}={shlex.quote(str(around))} has this `lora` work on it"
    if own:
        hint += f";\n{HOME_VARIABLE}={shlex.quote(str(own))} keeps to its own"
    return LoraError(f"{around} is a checkout that this `lora` does not belong to", hint=hint)


def _named_by(variable: str) -> Path | None:
    value = os.environ.get(variable)
    try:
        return Path(value).expanduser().absolute() if value else None
    except RuntimeError:
        user = str(value).partition("/")[0]
        raise LoraError(f"{variable}={value}: no such user: {user}", hint="write the path out") from None


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise LoraError("the current folder does not exist any more", hint="change to one that does") from None


def _is_checkout(folder: Path) -> bool:
    return all((folder / marker).exists() for marker in _MARKERS) and (folder / "lora_training").is_dir()
