"""When a patch may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.errors import PatchError
from lora_training.patching import conditions
from lora_training.patching.series import Target
from tests.helpers import commit, git, repository


def _target(root: Path, name: str = "sd-scripts") -> Target:
    return Target(name, root, root, None, "0" * 40)


@pytest.mark.parametrize(
    ("wanted", "met"), [("0.11.1", True), ("0.9", True), ("0.11", True), ("0.11.2", False), ("1", False)]
)
def test_a_version_is_compared_by_its_numbers(tmp_path: Path, wanted: str, met: bool) -> None:
    (tmp_path / "README.md").write_text("- **Version 0.11.1 (2026-06-16):**\n- **Version 0.10.0 (x):**\n")
    target = _target(tmp_path)
    read = conditions.pristine_reader({"sd-scripts": target})
    assert conditions.parse("p", f"version >= {wanted}\nwhen it is out").is_met(target, read) is met


def test_a_version_that_nobody_states_is_not_reached(tmp_path: Path) -> None:
    target = _target(tmp_path, "other")
    assert not conditions.parse("p", "version >= 0").is_met(target, conditions.pristine_reader({"other": target}))


def test_a_commit_is_contained_once_the_tree_has_it(tmp_path: Path) -> None:
    first = repository(tmp_path / "r", {"a": "1"})
    second = commit(tmp_path / "r", {"a": "2"})
    target = _target(tmp_path / "r")
    read = conditions.pristine_reader({})
    condition = conditions.parse("p", f"upstream-commit {second}")
    assert condition.is_met(target, read)
    git("checkout", "-q", first, cwd=tmp_path / "r")
    assert not condition.is_met(target, read)
    assert not conditions.parse("p", f"upstream-commit {'f' * 40}").is_met(target, read)
    assert not condition.is_met(_target(tmp_path), read)


def test_a_probe_looks_at_the_pristine_file(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("**Version 9.0 (patched)**")
    (tmp_path / "README.md.orig").write_text("**Version 0.1 (x)**")
    target = _target(tmp_path)
    read = conditions.pristine_reader({"sd-scripts": target})
    assert conditions.version_of("sd-scripts", read) == "0.1"


def test_blip_is_mended_by_either_side() -> None:
    blip = "from transformers.modeling_utils import (\n    PreTrainedModel,\n    prune_linear_layer,\n)\n"
    both = "from .x import (\n    a,\n    prune_linear_layer,\n)\nclass PreTrainedModel:\n    pass\n"
    cases = [(blip, "class PreTrainedModel: ...\n", False), (blip, both, True), ("import os\n", "", True)]
    for med, utils, met in cases:
        files = {"finetune/blip/med.py": med, "src/transformers/modeling_utils.py": utils}
        assert conditions.blip_imports_resolve(lambda _, path, files=files: files[path]) is met


def test_a_condition_that_no_machine_can_check_is_refused() -> None:
    for text in ("when upstream mends it", "probe unknown", "version > 1", ""):
        with pytest.raises(PatchError, match="cannot be carried out"):
            conditions.parse("p", text)
