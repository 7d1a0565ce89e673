"""The packages import each other in one direction: cli, app, the packages of one subject each, the shared modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import lora_training

PACKAGE = Path(lora_training.__file__).parent
SUBJECTS = {"upstream", "patching", "config", "preflight", "launch", "supervise", "containers", "dataset"}
# run in the training process, or make its models
TRAINING = {"runtime", "miniature", "smoke"}
APART = {"patching", "config", "supervise"}


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """The names that a module imports from this project, wherever in it, also for its types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((*node.module.split("."), alias.name) for alias in node.names)


def imports() -> dict[str, dict[str, set[str]]]:
    """For each package and shared module, the packages that it imports, and the files that do."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE)
        for project, *rest in imported(path):
            if project == PACKAGE.name and rest and (PACKAGE / rest[0]).is_dir() and rest[0] != here.parts[0]:
                found.setdefault(here.parts[0], {}).setdefault(rest[0], set()).add(str(here))
    return found


# who may import whom; types count as well
ALLOWED = {
    "cli": {"app", *SUBJECTS, "runtime", "ui"},
    "ui": {"app", *SUBJECTS},
    "app": SUBJECTS | {"runtime", "miniature"},
    "containers": {"launch", "supervise"},
    "supervise": {"launch"},
    "launch": {"config"},
    "smoke": {"runtime"},
    "dataset": {"preflight"},
    "__main__.py": {"cli"},
}
# in a process of its own, or after a training environment that is not there yet has been made
PRINT = {"__main__.py", "bootstrap.py", "upstream/seal.py", "config/schema/child.py"}


def test_packages_import_in_one_direction() -> None:
    found = imports()
    wrong = {(one, other): files for one, others in found.items() for other, files in others.items()}
    assert {pair: files for pair, files in wrong.items() if pair[1] not in ALLOWED.get(pair[0], set())} == {}
    assert found["cli"]["app"]
    assert found["app"]["patching"]


def test_patches_configurations_and_supervision_know_nothing_of_each_other() -> None:
    assert not any(others & (APART - {one}) for one, others in ALLOWED.items() if one in APART)


def test_only_the_command_line_uses_click_and_rich() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        for names in imported(path)
        if names[0] in {"click", "rich"}
    }
    assert users == {"cli"}


def test_only_the_command_line_prints_exits_and_reads_its_arguments() -> None:
    """What runs in a process of its own does so too: its output is read by ours."""
    wrong = set()
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE)
        if here.parts[0] in {"cli", *TRAINING} or str(here) in PRINT:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            of_sys = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys"
            if is_print or (of_sys and node.attr in {"argv", "exit", "stdin", "stdout", "stderr"}):
                wrong.add(str(here))
    assert wrong == set()
