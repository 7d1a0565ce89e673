"""`lora config` as it is typed, against the small tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.helpers import images
from tests.helpers import ROOT, Ran, commit, git, lora, repository, without_upstream

GOOD = """script = "train_network"
pretrained_model_name_or_path = "org/model"
network_module = "networks.lora"
output_dir = "out"
learning_rate = 1e-4
[[datasets]]
resolution = 64
enable_bucket = true
[[datasets.subsets]]
image_dir = "images"
class_tokens = "cat"
"""


@pytest.fixture
def run(tree: Path, tmp_path: Path):
    images(tmp_path / "images")
    (tmp_path / "c.toml").write_text(GOOD)
    environment = {
        **os.environ,
        "LORA_HOME": str(ROOT),
        "LORA_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
    }

    def call(*args: str, stdin: str | None = None, **more: str) -> Ran:
        if stdin is None:
            return lora("config", *args, cwd=tmp_path, env={**environment, **more})
        argv = [sys.executable, "-m", "lora_training", "config", *args]
        done = subprocess.run(
            argv, cwd=tmp_path, env=environment, input=stdin, capture_output=True, text=True, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def here(tree: Path) -> tuple[str, str]:
    return ("--tree", str(tree))


def test_a_right_file_is_code_0(run, here):
    fetched = "c.toml: this configuration fetches org/model from the Hugging Face hub\n"
    assert run("check", "c.toml", *here) == Ran(0, "c.toml: 0 errors, 0 warnings\n" + fetched, "")


def test_problems_are_code_1_with_file_line_and_column(run, here, tmp_path):
    ran = run("check", "c.toml", *here, LORA_LEARNING_RAT="1")
    assert ran.code == 1
    assert ran.out.splitlines()[:2] == [
        "LORA_LEARNING_RAT: error: upstream's train_network has no flag `learning_rat`",
        "    hint: did you mean `learning_rate`?",
    ]
    (tmp_path / "c.toml").write_text(GOOD.replace("1e-4", '"1e-4"'))
    assert run("check", "c.toml", *here).out.startswith(
        f"{tmp_path}/c.toml:5:1: error: `learning_rate` must be a number"
    )


def test_warnings_fail_only_when_strict(run, here, tmp_path):
    (tmp_path / "c.toml").write_text(GOOD.replace('class_tokens = "cat"', 'caption_extension = ".cap"'))
    assert run("check", "c.toml", *here).code == 0
    assert run("check", "--strict", "c.toml", *here).code == 1


def test_json_is_one_document_with_every_file(run, here, tmp_path):
    (tmp_path / "d.toml").write_text("a = ")
    ran = run("check", "c.toml", "d.toml", "missing.toml", "--json", *here)
    files = json.loads(ran.out)["files"]
    assert (ran.code, [f["errors"] for f in files]) == (1, [0, 1, 1])
    assert files[1]["problems"][0]["line"] == 1


def test_show_gives_the_arguments_with_their_origins(run, here):
    ran = run("show", "c.toml", "--as", "argv", "--origin", "--set", "seed=0", *here, LORA_LEARNING_RATE="2")
    lines = dict(reversed(line.split("  # ")) for line in ran.out.splitlines())
    assert lines["--set seed"] == "--seed 0"
    assert lines["LORA_LEARNING_RATE"] == "--learning_rate 2"


def test_show_gives_lines_that_a_shell_runs(run, here, tree, tmp_path):
    ran = run("show", "c.toml", "--as", "sh", *here)
    (tree / "train_network.py").write_text("import sys, json; print(json.dumps(sys.argv[1:]))")
    done = subprocess.run(["sh", "-c", ran.out], cwd=tmp_path, capture_output=True, text=True, check=True)
    shown = run("show", "c.toml", "--json", *here, *("--set", "seed=1")).out
    assert json.loads(done.stdout)[-2:] == ["--dataset_config", "dataset.json"]
    assert json.loads((tmp_path / "dataset.json").read_text())["datasets"][0]["resolution"] == 64
    assert shown == ""  # the tree's parser is gone, which is an error and no traceback


def test_show_gives_toml_that_is_the_same_configuration(run, here, tmp_path):
    (tmp_path / "d.toml").write_text(run("show", "c.toml", "--set", "seed=3", *here).out)
    first = json.loads(run("show", "c.toml", "--json", "--set", "seed=3", *here).out)
    again = json.loads(run("show", "d.toml", "--json", *here).out)
    assert {**first, "file": 0, "argv": sorted(first["argv"])} == {**again, "file": 0, "argv": sorted(again["argv"])}


def test_schema_has_the_promised_fields(run, here, tree):
    git("init", "-q", cwd=tree)
    head = commit(tree, {"README.md": ""})
    whole = json.loads(run("schema", "--script", "train_network", "--json", *here).out)
    assert list(whole) == ["script", "upstream_commit", "flags"]
    assert whole["upstream_commit"] == head
    assert {tuple(flag) for flag in whole["flags"]} == {
        ("name", "dest", "type", "default", "choices", "nargs", "action", "help", "required", "const", "defined_in")
    }


def test_the_json_schema_knows_flags_in_any_table(run, here):
    whole = json.loads(run("schema", "--script", "train_network", "--as", "jsonschema", *here).out)
    flags = whole["definitions"]["flags"]
    assert flags["properties"]["save_precision"]["enum"] == ["fp16", "bf16"]
    assert flags["additionalProperties"] is False
    assert whole["properties"]["run"]["properties"]["retries"] == {"type": "integer", "minimum": 0}


def test_an_unknown_script_is_code_3(run, here):
    ran = run("schema", "--script", "train_netwrk", *here)
    assert (ran.code, ran.out) == (3, "")
    assert "did you mean `train_network`?" in ran.err


def test_explain_says_what_became_of_a_flag(run, tree, tmp_path):
    old = tmp_path / "history"
    files = {str(p.relative_to(tree)): p.read_text() for p in tree.rglob("*.py")}
    repository(old, files)
    git("tag", "v1", cwd=old)
    commit(old, {"library/args.py": files["library/args.py"].replace("default=2.0e-6", "default=1.0")})
    git("tag", "v2", cwd=old)
    ran = run("explain", "learning_rate", "--tree", str(old))
    assert "v2: changed (default: 2e-06 -> 1.0) in train_network" in ran.out
    whole = json.loads(run("explain", "learning-rate", "--json", "--tree", str(old)).out)
    assert whole["versions"] == ["v1", "v2"]
    assert [change["version"] for change in whole["changes"]] == ["v2"]


def test_explain_in_a_tree_without_scripts_is_an_upstream_error(run, tmp_path):
    assert run("explain", "seed", "--tree", str(tmp_path / "images")).code == 4


def test_explain_of_an_unknown_key_names_the_nearest(run, here):
    ran = run("explain", "lerning_rate", *here)
    assert (ran.code, ran.err) == (
        3,
        "error: upstream has no flag `lerning_rate`\nhint: did you mean `learning_rate`?\n",
    )


def test_explain_of_a_word_that_nothing_has_says_where_the_flags_are_listed(run, here):
    ran = run("explain", "queue", *here)
    assert ran.err.startswith("error: upstream has no flag `queue`\nhint: `lora config schema --script ")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("run", "  retries: a whole number of at least 0; "),
        ("[launch]", '  mixed_precision: "no" or "fp16" or "bf16"; '),
        ("runtime", "  nan-guard: true, false or a table; "),
        ("ema", "  decay: default 0.999"),
        ("runtime.ema", "  more: lora patch show runtime/ema"),
    ],
)
def test_explain_describes_the_tables_that_are_ours(run, here, key, said):
    ran = run("explain", key, *here)
    assert ran.code == 0
    assert f"\n{said}" in ran.out
    assert json.loads(run("explain", key, "--json", *here).out)["keys"]


def test_explain_finds_keys_by_a_word_of_their_name_or_help(run, here):
    found = json.loads(run("explain", "learning", "--json", *here).out)["found"]
    assert next(iter(found)) == "learning_rate"
    assert "  datasets.batch_size: int\n" in run("explain", "datasets", *here).out
    assert run("explain", "lr", *here).out.splitlines()[1].startswith("  learning_rate: ")
    lines = run("explain", "stall", *here).out.splitlines()
    assert lines[0].startswith("no key is named stall")
    assert any(line.startswith("  run.stall_timeout: ") for line in lines)


def test_an_override_without_sense_is_not_blamed_on_the_file(run, here):
    ran = run("check", "c.toml", "--quick", "--set", "nonsense", *here)
    assert ran.code == 1
    assert ran.out.startswith("--set: error: nonsense: not of the form key=value\n")


def test_import_names_the_file_and_what_is_still_missing(run, here, tmp_path):
    kohya = {"LoRA_type": "Standard", "train_data_dir": "/d/img", "learning_rate": 1e-4, "output_dir": "", "seed": ""}
    kohya |= {"network_dim": 4}
    (tmp_path / "k.json").write_text(json.dumps(kohya))
    ran = run("import", "k.json", "--script", "train_network", "-o", "k.toml", *here)
    lines = ran.err.splitlines()
    assert "mapped    learning_rate, network_dim" in lines
    assert "left out  output_dir, seed (empty)" in lines
    at = lines.index("from k.json, written to k.toml")
    assert lines[at + 1 :][-1].startswith("still to be filled in: pretrained_model_name_or_path, output_dir")


def test_new_lists_the_presets_with_a_line_each(run):
    lines = run("new", "--list").out.splitlines()
    assert len(lines) == len(list((ROOT / "configs").glob("*.toml")))
    assert "sdxl           Stable Diffusion XL: U-Net only, text encoders' outputs cached" in lines


def test_new_marks_what_is_no_preset_of_ours(run, tmp_path):
    checkout = without_upstream(tmp_path / "checkout")
    commit(checkout, {"configs/given.toml": "# A preset. It is good.\n"})
    (checkout / "configs" / "own.toml").write_text("# A preset. It is good.\n")
    (checkout / "configs" / "utf16.toml").write_text("# A preset.", encoding="utf-16")
    ran = run("new", "--list", LORA_HOME=str(checkout))
    assert ran.code == 0, ran.err
    given, own, other = ran.out.splitlines()
    assert (given, own) == ("given  A preset", "own    (your own) A preset")
    assert other.endswith("utf16.toml:1:1: not UTF-8")


def test_new_names_the_lora(run, tmp_path):
    assert run("new", "mine", "--preset", "sdxl", "--name", "7").code == 0
    assert 'output_name = "7"' in (tmp_path / "mine.toml").read_text()


def test_import_names_the_shell_variables_without_a_value_and_the_flag_nearest_to_an_unknown_one(run, here):
    text = "accelerate launch train_network.py $FIRST --seed 3 $X --lerning_rate 5 --network_args a=1 ${MORE}"
    ran = run("import", "-", *here, stdin=f'{text} --cache_latents "$@"')
    assert ran.code == 0, ran.err
    assert "lost      $FIRST, $X, ${MORE}, $@ (a shell variable without a value)\n" in ran.err
    assert "--lerning_rate (train_network has no flag `lerning_rate`; the nearest is `learning_rate`)\n" in ran.err
    assert "mapped    --seed, --network_args, --cache_latents\n" in ran.err
    assert ("$" in ran.out.partition("script =")[2], "a = 1" in ran.out) == (False, True)


def test_import_reads_a_command_line_from_stdin(run, here):
    text = "accelerate launch --num_processes 2 train_network.py --learning_rate=1e-3 \\\n --cache_latents --gone 1"
    ran = run("import", "-", "--json", *here, stdin=text)
    whole = json.loads(ran.out)
    assert whole["config"]["launch"] == {"num_processes": 2}
    assert {row["key"]: row["outcome"] for row in whole["report"]}["--gone"] == "lost"


def test_import_writes_no_file_over_another(run, here, tmp_path):
    (tmp_path / "old.toml").write_text("learning_rate = 1.0\n")
    args = ("import", "old.toml", "--script", "train_network", "-o", "c.toml", *here)
    assert run(*args).code == 3
    assert (tmp_path / "c.toml").read_text() == GOOD
    assert run(*args, "--force").code == 0
    assert "learning_rate = 1.0" in (tmp_path / "c.toml").read_text()


def test_new_writes_a_preset_with_the_user_s_paths(run, tmp_path):
    ran = run("new", "mine", "--preset", "sdxl", "--model", "m.safetensors", "--images", "pics", "--output-dir", "o")
    assert ran.code == 0
    text = (tmp_path / "mine.toml").read_text()
    assert 'pretrained_model_name_or_path = "m.safetensors"' in text
    assert run("new", "mine", "--preset", "sdxl").code == 3


def test_new_names_paths_as_its_own_folder_sees_them(run, tmp_path):
    (tmp_path / "deep").mkdir()
    assert run("new", "deep/mine", "--preset", "sdxl", "--model", "org/model", "--images", "images").code == 0
    text = (tmp_path / "deep/mine.toml").read_text()
    assert 'image_dir = "../images"' in text
    assert 'pretrained_model_name_or_path = "org/model"' in text


def test_help_imports_nothing_heavy(tmp_path):
    code = "import sys; from lora_training.cli import run; run(['config', '--help']); print(sorted(sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert not {"torch", "git", "rich", "yaml"} & set(done.stdout.split("'"))


@pytest.mark.upstream
def test_explain_knows_our_own_keys(sd_scripts: Path) -> None:
    ran = lora("config", "explain", "stall_timeout", cwd=ROOT)
    assert "[run]" in ran.out
    assert "seconds" in ran.out
    both = json.loads(lora("config", "explain", "mixed_precision", "--json", cwd=ROOT).out)
    assert both["ours"]["table"] == "launch"
    assert "train_network" in both["scripts"]
