from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_training.runtime import registry, verify
from tests.helpers import ROOT, write

LIBRARY = """
BLOCK_OUT_CHANNELS: tuple = (320, 640, 1280, 1280)
TIMESTEP_INPUT_DIM = BLOCK_OUT_CHANNELS[0]
TIME_EMBED_DIM = BLOCK_OUT_CHANNELS[0] * 4
"""
SCRIPT = """
import sys
from library import original_unet as u
if __name__ == "__main__":
    print(u.BLOCK_OUT_CHANNELS, u.TIMESTEP_INPUT_DIM, u.TIME_EMBED_DIM, sys.argv[1:])
"""


def digest(text: str, name: str) -> str | None:
    return verify.digest_in(ast.parse(text), name)


def run(folder: Path, chosen: dict[str, object], *flags: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "lora_training.runtime", str(folder / "script.py"), *flags]
    env = os.environ | {"LORA_RUNTIME": json.dumps(chosen)}
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path, sd_scripts: Path) -> Path:
    real = (sd_scripts / "library" / "original_unet.py").read_text(encoding="utf-8")
    constants = [
        line for line in real.splitlines() if line.startswith(("BLOCK_OUT", "TIMESTEP_INPUT", "TIME_EMBED_DIM"))
    ]
    text = "\n".join(["from typing import Tuple", *constants])
    write(tmp_path, {"library/__init__.py": "", "library/original_unet.py": text, "script.py": SCRIPT})
    return tmp_path


@pytest.mark.upstream
def test_a_chosen_patch_changes_the_module_and_the_script_runs_as_if_alone(tree: Path) -> None:
    done = run(tree, {"tiny-unet": {"block_out_channels": [32, 64]}}, "--flag", "0")
    assert done.stdout == "(32, 64) 32 128 ['--flag', '0']\n"
    assert "runtime patch tiny-unet: on" in done.stderr


@pytest.mark.upstream
def test_without_a_patch_nothing_is_changed(tree: Path) -> None:
    done = run(tree, {})
    assert done.stdout == "(320, 640, 1280, 1280) 320 1280 []\n"
    assert done.stderr == ""


@pytest.mark.upstream
def test_a_target_that_is_not_what_it_was_stops_the_start(tree: Path) -> None:
    unet = tree / "library" / "original_unet.py"
    unet.write_text(unet.read_text(encoding="utf-8").replace("320,", "321,"), encoding="utf-8")
    done = run(tree, {"tiny-unet": {"block_out_channels": [32, 64]}})
    assert done.returncode == 5
    assert "BLOCK_OUT_CHANNELS" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_target_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    write(tmp_path, {"library/__init__.py": "", "library/original_unet.py": "\n", "script.py": SCRIPT})
    done = run(tmp_path, {"tiny-unet": {"block_out_channels": [32, 64]}})
    assert done.returncode == 5
    assert "is missing" in done.stderr


SELF = """
class Trainer:
    def train(self):
        return "upstream's"
if __name__ == "__main__":
    print(Trainer().train())
"""


@pytest.fixture
def self_patch(tmp_path: Path) -> Path:
    """A patch of a method that the script itself defines, in a child that knows no other; the script's folder."""
    write(tmp_path, {"tree/train_it.py": SELF, "patches/loud.py": LOUD, "run.py": DRIVER})
    return tmp_path


LOUD = """
from lora_training.runtime import verify
from lora_training.runtime.model import RuntimePatch, Target
def install(module, settings):
    upstreams = module.Trainer.train
    module.Trainer.train = lambda self: upstreams(self) + ", louder"
PATCH = RuntimePatch("loud", "", "", "", "", (Target("train_it", "Trainer.train", DIGEST),), install)
""".replace("DIGEST", repr(digest(SELF, "Trainer.train")))
DRIVER = """
import os, sys
from lora_training.runtime import bootstrap, patches, registry
patches.__path__[:] = [os.path.join(os.path.dirname(__file__), "patches")]
if "twice" in sys.argv:
    from pathlib import Path
    from lora_training.runtime.model import Start
    registry.install({"loud": {}}, Path(sys.argv[1]).parent, Start((), {}))
sys.exit(bootstrap.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", ["once", "twice"])
def test_the_scripts_own_definitions_are_patched_and_installing_twice_is_once(self_patch: Path, how: str) -> None:
    argv = [sys.executable, str(self_patch / "run.py"), str(self_patch / "tree" / "train_it.py"), how]
    env = os.environ | {"LORA_RUNTIME": '{"loud": {}}', "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "upstream's, louder\n", done.stderr


def test_settings_that_do_not_fit_are_exit_3_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path, {"script.py": "print('ran')"})
    done = run(tmp_path, {"tiny-unet": {"block_out_chanels": [1]}})
    assert (done.returncode, done.stdout) == (3, "")
    assert "did you mean `block_out_channels`?" in done.stderr
    assert "`block_out_channels` is missing" in done.stderr


def test_a_traceback_of_the_script_names_its_own_lines(tmp_path: Path) -> None:
    write(tmp_path, {"script.py": "import sys\n\nif __name__ == '__main__':\n    sys.nothing\n"})
    done = run(tmp_path, {})
    assert done.returncode == 1
    assert f'"{tmp_path / "script.py"}", line 4' in done.stderr


def test_verifying_every_patch_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lora_training.runtime import registry; registry.check(Path('.'));"
        "print([m for m in ('torch', 'accelerate', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_patch_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, {"script.py": "print('ran')"})
    done = run(tmp_path, {"tiny-unnet": {}})
    assert (done.returncode, done.stdout) == (5, "")
    assert "tiny-unet" in done.stderr


def test_the_scripts_own_exit_code_comes_through(tmp_path: Path) -> None:
    write(tmp_path, {"script.py": "raise SystemExit(7)"})
    assert run(tmp_path, {}).returncode == 7


@pytest.mark.upstream
def test_every_patch_fits_the_pinned_tree(sd_scripts: Path) -> None:
    assert registry.check(sd_scripts) == []


def test_a_digest_ignores_comments_and_layout_but_no_change_of_code() -> None:
    first = digest("class A:\n    def f(self): return 1\n", "A.f")
    assert first == digest("# why\nclass A:\n    def f(\n        self\n    ):\n        return 1  # one\n", "A.f")
    assert first != digest("class A:\n    def f(self): return 2\n", "A.f")
    assert digest("class A: pass", "A.f") is None
