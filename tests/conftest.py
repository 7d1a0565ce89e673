from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from lora_training import workspace
from lora_training.upstream import pins
from tests.helpers import ROOT

HOW_TO_GET_IT = "needs the real sd-scripts: `lora upstream sync` brings it (see README, Mirrors)"


@pytest.fixture(scope="session")
def sd_scripts() -> Path:
    """The real upstream at its pin, or a skip that says how to get it."""
    here = workspace.Workspace(ROOT)
    upstream = here.upstream("sd-scripts")
    if pins.head(upstream).commit != pins.pin(here, "sd-scripts"):
        pytest.skip(HOW_TO_GET_IT)
    return upstream.path


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests reaches them."""
    for name in [name for name in os.environ if name.startswith(("LORA_", "GIT_"))]:
        monkeypatch.delenv(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason to skip, however many tests it took."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"skipped {number}: {reason}")
