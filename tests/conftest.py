from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from lora_training import workspace
from lora_training.upstream import pins
from tests import surroundings
from tests.helpers import ROOT

# In this order. All tests of families wait for the same models, so that another file begins before them.
LONGEST = (
    "image/test_image.py",
    "families/test_families.py",
    "cli/test_bump_trains.py",
    "cli/test_train.py",
    "cli/test_slurm.py",
    "patching/test_crash.py",
    "patching/test_killed_by_strace.py",
    "launch/test_two_processes.py",
    "runtime/test_exact_resume.py",
    "ui/test_training.py",
    "ui/test_forms.py",
    "cli/test_queue.py",
    "tool/test_tool.py",
    "ui/test_watching.py",
    "cli/test_kept.py",
    "runtime/test_fp16.py",
    "containers/test_train_docker.py",
)
HOW_TO_GET_IT = "needs the real sd-scripts: `lora upstream sync` brings it (see README, Mirrors)"

# a shell's background jobs have it ignored, and so would all that is started here
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# `nohup make test` would have it ignored here and in every child
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def sd_scripts() -> Path:
    """The real upstream at its pin, or a skip that says how to get it."""
    here = workspace.Workspace(ROOT)
    upstream = here.upstream("sd-scripts")
    if pins.head(upstream).commit != pins.pin(here, "sd-scripts"):
        pytest.skip(HOW_TO_GET_IT)
    return upstream.path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of a size, such as `512k`, mounted until the test is over."""
    folder = tmp_path / "disk"

    def mounted(size: str) -> Path:
        folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(argv, capture_output=True, check=False).returncode:
            folder.rmdir()
            pytest.skip("needs to mount a small file system, as root")
        return folder

    yield mounted
    if folder.exists():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(autouse=True)
def unchanged_environment() -> Iterator[None]:
    """A variable that a test leaves behind reaches the others of its process, in another order at each run."""
    before = dict(os.environ)
    yield
    changed = {name for name, value in before.items() if os.environ.get(name) != value} - {"PYTEST_CURRENT_TEST"}
    # libraries add variables of their own when they are imported
    changed |= {name for name in os.environ.keys() - before.keys() if name.startswith(("LORA_", "CUDA_VISIBLE"))}
    assert not changed, f"left in the environment: {sorted(changed)}"


@pytest.fixture(autouse=True)
def own_list(unchanged_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of tests are in a list of their own, each test's in another, and never in that of this checkout."""
    monkeypatch.setenv(workspace.RUNS_VARIABLE, str(Path(os.environ["HOME"], "runs", uuid4().hex)))


def pytest_configure(config: pytest.Config) -> None:
    """No setting of whoever runs the tests reaches them. Other processes of the same run have it from the first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    home = Path(tempfile.mkdtemp(prefix="lora-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    surroundings.take(home)
    os.environ[workspace.RUNS_VARIABLE] = str(home / "runs" / "shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process is left with one of them at the end."""
    order = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason to skip, however many tests it took; below the table of the coverage."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"skipped {number}: {reason}")
