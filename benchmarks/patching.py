"""How long a series of 100 patches over 300 files takes, in one run against the tools that people use for it.

    python -m benchmarks.patching [--rounds N] [--runs N] [--json FILE] [--write FILE]

The files are real ones, of the trees in third_party. Every command is a fresh process on a fresh copy, begun when the
disk has taken all that was written before. Tools that are not installed are left out; patch-package is brought from npm
when npm is there. `--write docs/benchmarks.md` puts the tables there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UPSTREAMS = ("sd-scripts", "transformers")
_SMALL = 1000
FILES_EACH, PATCHES_EACH, FILES_A_PATCH = 150, 50, 3
# Python compiles a module once, unless it is told not to keep the result.
_CACHED = {"PYTHONDONTWRITEBYTECODE": ""}
_HEADER = """\
Description: change {n}
Author: benchmark
Origin: vendor
Bug: none
Forwarded: no
Last-Update: 2026-01-01
Upstream-Version: 1
Reason: to be measured
Verification: true
Removal-Condition: version >= 9999
---
"""


def _git(*args: str, cwd: Path) -> str:
    identity = ["-c", "user.name=b", "-c", "user.email=b@example.org", "-c", "commit.gpgsign=false", "-c", "gc.auto=0"]
    done = subprocess.run(["git", *identity, *args], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout


# -- the work


def build(folder: Path) -> Path:
    """A checkout with two upstreams of real files, a locked series for each, and nothing applied."""
    root = folder / "checkout"
    modules = "".join(f'[submodule "{n}"]\n\tpath = third_party/{n}\n\turl = {n}\n' for n in UPSTREAMS)
    (root / "lora_training").mkdir(parents=True)
    (root / ".gitmodules").write_text(modules)
    _git("init", "-q", cwd=root)
    dice = random.Random(1)
    for name in UPSTREAMS:
        commit = _upstream(root / "third_party" / name, ROOT / "third_party" / name, dice)
        _series(root / "patches" / name, root / "third_party" / name, dice)
        _git("update-index", "--add", "--cacheinfo", f"160000,{commit},third_party/{name}", cwd=root)
    _git("commit", "-q", "-m", "pins", cwd=root)
    _lora(root, "lock")()
    _lora(root, "docs")()
    return root


def _upstream(tree: Path, source: Path, dice: random.Random) -> str:
    pristine = (path for path in sorted(source.rglob("*.py")) if not path.with_name(path.name + ".orig").exists())
    candidates = [path for path in pristine if path.stat().st_size > _SMALL and b"\r" not in path.read_bytes()]
    if len(candidates) < FILES_EACH:
        sys.exit(f"{source} has too few files; run `lora upstream sync` first")
    for path in dice.sample(candidates, FILES_EACH):
        copy = tree / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    (tree / "package.json").write_text(json.dumps({"name": tree.name, "version": "1.0.0"}))
    _git("init", "-q", cwd=tree)
    _git("add", "-A", cwd=tree)
    _git("commit", "-q", "-m", "upstream", cwd=tree)
    return _git("rev-parse", "HEAD", cwd=tree).strip()


def _series(patches: Path, tree: Path, dice: random.Random) -> None:
    patches.mkdir(parents=True)
    files = sorted(tree.rglob("*.py"))
    dice.shuffle(files)
    names = []
    for n in range(PATCHES_EACH):
        for path in files[n * FILES_A_PATCH : (n + 1) * FILES_A_PATCH]:
            _edit(path, dice)
        names.append(f"{n + 1:04d}-change.patch")
        diff = _git("diff", cwd=tree)
        (patches / names[-1]).write_text(_HEADER.format(n=n) + diff)
        _git("add", "-A", cwd=tree)
    (patches / "series").write_text("\n".join(names) + "\n")
    _git("reset", "-q", "--hard", cwd=tree)


def _edit(path: Path, dice: random.Random) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    for at in sorted(dice.sample(range(5, len(lines) - 5), 2), reverse=True):
        lines[at : at + 1] = [f"# changed {dice.random()}", lines[at]]
    path.write_text("\n".join(lines), encoding="utf-8")


# -- the tools

Command = Callable[[], None]


@dataclass(frozen=True)
class Tool:
    """A way to do the work: a command for each of apply, apply again, verify and revert, where it has one."""

    name: str
    commands: dict[str, Command]


def _run(*argv: str, cwd: Path, env: dict[str, str] | None = None, allowed: tuple[int, ...] = (0,)) -> Command:
    def command() -> None:
        done = subprocess.run(argv, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, check=False)
        if done.returncode not in allowed:
            sys.exit(f"{argv}: {done.returncode}\n{done.stdout.decode()}{done.stderr.decode()}")

    return command


def _shell(root: Path, each: str, *, backwards: bool = False) -> Command:
    """A shell loop over the series of both trees, as one would write it; `$1` is the patch."""
    order = "tac" if backwards else "cat"
    body = f"cd {{tree}} && for p in $({order} {{patches}}/series); do set -- {{patches}}/$p; {each} || exit 1; done"
    loops = [f"({body})".format(tree=root / "third_party" / n, patches=root / "patches" / n) for n in UPSTREAMS]
    return _run("sh", "-c", " && ".join(loops), cwd=root)


def _lora(root: Path, *args: str) -> Command:
    env = {"LORA_HOME": str(root), "PYTHONPATH": str(ROOT), **_CACHED}
    return _run(sys.executable, "-m", "lora_training", "patch", *args, cwd=root, env=env)


def _ours(root: Path) -> Tool:
    verbs = {"apply": "apply", "no-op apply": "apply", "verify": "verify", "revert": "revert"}
    return Tool("lora", {name: _lora(root, verb) for name, verb in verbs.items()})


def _git_apply(root: Path) -> Tool:
    back = _shell(root, 'git apply -R "$1"', backwards=True)
    return Tool("git apply", {"apply": _shell(root, 'git apply "$1"'), "revert": back})


def _gnu_patch(root: Path) -> Tool:
    back = _shell(root, 'patch -s -p1 -R -i "$1"', backwards=True)
    return Tool("GNU patch", {"apply": _shell(root, 'patch -s -p1 -i "$1"'), "revert": back})


def _quilt(root: Path) -> Tool:
    def both(*args: str) -> Command:
        setting = "QUILT_PATCHES={patches} QUILT_PC={pc}"
        rows = [
            f"(cd {root / 'third_party' / n} && "
            + setting.format(patches=root / "patches" / n, pc=root / f"pc-{n}")
            + f" quilt {' '.join(args)}; test $? -lt 3)"
            for n in UPSTREAMS
        ]
        return _run("sh", "-c", " && ".join(rows), cwd=root)

    return Tool("quilt", {"apply": both("push", "-a"), "no-op apply": both("push", "-a"), "revert": both("pop", "-a")})


def _patch_package(root: Path, modules: Path) -> Tool:
    """Each tree as a package in node_modules, its series as patch-package's numbered patches."""
    app = root / "app"
    (app / "node_modules").mkdir(parents=True)
    (app / "patches").mkdir()
    (app / "package.json").write_text(json.dumps({"name": "app", "dependencies": dict.fromkeys(UPSTREAMS, "1.0.0")}))
    (app / "package-lock.json").write_text("{}")
    for name in UPSTREAMS:
        shutil.move(root / "third_party" / name, app / "node_modules" / name)
        for n, file in enumerate(sorted((root / "patches" / name).glob("*.patch")), 1):
            diff = file.read_text(encoding="utf-8").split("\n---\n", 1)[1]
            (app / "patches" / f"{name}+1.0.0+{n:03d}+change.patch").write_text(
                _moved_into(diff, f"node_modules/{name}/")
            )
    script = str(modules / "node_modules" / "patch-package" / "index.js")
    forth, back = _run("node", script, cwd=app), _run("node", script, "--reverse", cwd=app)
    return Tool("patch-package", {"apply": forth, "no-op apply": forth, "revert": back})


def _moved_into(diff: str, folder: str) -> str:
    """The same diff, its names in another folder."""
    diff = re.sub(r"^(diff --git a/)(.* b/)", rf"\1{folder}\2{folder}", diff, flags=re.MULTILINE)
    return re.sub(r"^(--- a/|\+\+\+ b/)", rf"\1{folder}", diff, flags=re.MULTILINE)


def tools(modules: Path | None) -> dict[str, Callable[[Path], Tool]]:
    """The tools that are here."""
    found: dict[str, Callable[[Path], Tool]] = {"lora": _ours, "git apply": _git_apply}
    if shutil.which("patch"):
        found["GNU patch"] = _gnu_patch
    if shutil.which("quilt"):
        found["quilt"] = _quilt
    if modules:
        found["patch-package"] = lambda copy: _patch_package(copy, modules)
    return found


def _npm(folder: Path) -> Path | None:
    if not shutil.which("npm"):
        return None
    done = subprocess.run(["npm", "install", "--silent", "--prefix", str(folder), "patch-package@8"], check=False)
    return folder if done.returncode == 0 else None


# -- the measurement


@dataclass(frozen=True)
class Taken:
    """Milliseconds of one command over all rounds: elapsed, the median and the least, and processor time, the least."""

    median: float
    best: float
    cpu: float


Figures = dict[str, dict[str, Taken]]


def measure(root: Path, modules: Path | None, rounds: int, *, settled: bool) -> Figures:
    """What each tool's commands take. Tools take turns, so that all see the same machine.

    With `settled`, the disk first takes what the copying, or the command before, left to be written.
    """
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for _ in range(rounds):
        for name, make in tools(modules).items():
            copy = root.with_name("copy")
            shutil.copytree(root, copy, symlinks=True)
            for command, act in make(copy).commands.items():
                taken.setdefault(name, {}).setdefault(command, []).append(_time(act, settled=settled))
            shutil.rmtree(copy)
        empty = _run(sys.executable, "-c", "pass", cwd=root, env=_CACHED)
        taken.setdefault(_EMPTY, {}).setdefault("start", []).extend(_time(empty, settled=False) for _ in range(4))
    return {name: {command: _summed(times) for command, times in rows.items()} for name, rows in taken.items()}


def _time(act: Command, *, settled: bool) -> tuple[float, float]:
    if settled:
        os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    act()
    elapsed = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _summed(times: list[tuple[float, float]]) -> Taken:
    elapsed = [1000 * wall for wall, _ in times]
    return Taken(statistics.median(elapsed), min(elapsed), min(1000 * cpu for _, cpu in times))


# -- the report

_EMPTY = "python -c pass"
_COLUMNS = ("apply", "no-op apply", "verify", "revert")
_METHOD = """\
A series of 100 patches over 300 files of sd-scripts and transformers (50 patches and 150 files each; a patch changes 3
files in 2 places each). Every command is a fresh process (for `git apply` and GNU patch: one process a patch), and
begins when the disk has taken all that was written before it (but in the last run). Tools take turns. A cell is the
median of the elapsed time, in brackets the least, then the least processor time (user and system), in milliseconds.

What to bear in mind: `lora` has every file on the disk (`fsync`) before it changes the first one, can finish or undo
what was cut off, and keeps pristine copies; `git apply`, GNU patch and patch-package do none of that, quilt keeps
copies. How long `fsync` takes depends on the disk. The machine was busy with other work, so that elapsed times vary
from run to run; compare within a run.

The last run does not wait for the disk before each command: the copied tree, and what the command before wrote, is not
on the disk yet. A tool that waits for the disk then waits for more, and one that does not never gets to give space free
that a file has on the disk, which takes this disk milliseconds a file. A tree that was checked out a while ago is like
the other runs.
"""


def table(figures: Figures) -> str:
    """The figures of one run."""
    ours = figures["lora"]
    lines = ["| tool | " + " | ".join(_COLUMNS) + " |", "| --- |" + " --- |" * len(_COLUMNS)]
    for name, rows in figures.items():
        if name != _EMPTY:
            lines.append(f"| {name} | " + " | ".join(_cell(rows.get(c)) for c in _COLUMNS) + " |")
    start = figures[_EMPTY]["start"].median
    times = ", ".join(f"{name} {ours[name].median / start:.1f} x" for name in ("no-op apply", "verify"))
    others = [(name, rows) for name, rows in figures.items() if name not in ("lora", _EMPTY)]
    ratios = "; ".join(
        f"{name} apply {rows['apply'].median / ours['apply'].median:.2f} x, "
        f"revert {rows['revert'].median / ours['revert'].median:.2f} x"
        for name, rows in others
    )
    lines += [
        "",
        f"`{_EMPTY}` takes {start:.1f} ms; in terms of that, lora: {times}.",
        "",
        f"In terms of lora: {ratios}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(taken: Taken | None) -> str:
    return f"{taken.median:.0f} ({taken.best:.0f}) {taken.cpu:.0f}" if taken else "-"


def document(runs: list[tuple[str, Figures]], machine: str, rounds: int) -> str:
    """The page with all runs."""
    parts = [
        "# Benchmarks: patching",
        "Written by `python -m benchmarks.patching --write docs/benchmarks.md`.",
        machine,
    ]
    parts.append(_METHOD.rstrip())
    parts.append(f"Each run has {rounds} rounds.")
    for title, figures in runs:
        parts += [f"## {title}", table(figures).rstrip()]
    return "\n\n".join(parts) + "\n"


def machine(modules: Path | None) -> str:
    """Describe the machine, the commit, the tools' versions and the date."""
    kernel = os.uname()
    disk = _said("findmnt", "-n", "-o", "FSTYPE", "-T", tempfile.gettempdir())
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = [f"Python {platform.python_version()}", _said("git", "--version")]
    versions += [_said("patch", "--version")] if shutil.which("patch") else []
    versions += [f"quilt {_said('quilt', '--version')}"] if shutil.which("quilt") else []
    if modules:
        package = json.loads((modules / "node_modules/patch-package/package.json").read_text(encoding="utf-8"))
        versions += [f"patch-package {package['version']} on node {_said('node', '--version')}"]
    commit = _said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return (
        f"{day}, commit {commit}, {kernel.sysname} {kernel.release} {kernel.machine}, {os.cpu_count()} processors "
        f"shared with other work (load {load} at the end), {disk} file system. " + ", ".join(versions) + "."
    )


def _said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


def main() -> None:
    """Build, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE")
    args = parser.parse_args()
    runs: list[tuple[str, Figures]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root = build(folder)
        modules = _npm(folder / "npm")
        for number in range(args.runs + 1):
            settled = number < args.runs
            title = f"Run {number + 1}" + ("" if settled else ", without waiting for the disk before each command")
            runs.append((title, measure(root, modules, args.rounds, settled=settled)))
            print(f"{title}\n\n{table(runs[-1][1])}", flush=True)
            if args.write:
                args.write.parent.mkdir(parents=True, exist_ok=True)
                args.write.write_text(document(runs, machine(modules), args.rounds), encoding="utf-8")
    if args.json:
        plain = {
            title: {name: {c: vars(t) for c, t in rows.items()} for name, rows in run.items()} for title, run in runs
        }
        args.json.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
