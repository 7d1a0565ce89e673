"""The schema compared with upstream's own parsers, imported for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_training import proc, repositories
from lora_training.config import argv, document, encode, schema
from lora_training.config.argv import to_argv
from lora_training.config.checks.datasets import tables
from lora_training.config.checks.view import View
from lora_training.config.loading import load
from lora_training.config.paths import is_path
from lora_training.config.schema.child import english
from lora_training.config.schema.reader import converted
from lora_training.config.tables import SECRETS
from tests.config.helpers import HERE

pytestmark = pytest.mark.upstream
URL = "https://github.com/kohya-ss/sd-scripts"
VERSIONS = {
    "v0.8.7": "bfb352bc433326a77aca3124248331eb60c49e8c",
    "v0.9.1": "8f4ee8fc343b047965cd8976fca65c3a35b7593a",
    "v0.10.1": "48d368fa557731ad0488c07304dfeba8c07910eb",
}


def really(tree: Path) -> dict[str, list[dict[str, object]]]:
    argv = [sys.executable, str(HERE / "real_parsers.py")]
    done = subprocess.run(argv, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for flag in (flag for flags in found.values() for flag in flags):
        flag["help"] = flag["help"] and english(flag["help"])
    return found


def ours(tree: Path) -> dict[str, list[dict[str, object]]]:
    read = schema.read_all(tree)
    flags = {name: json.loads(json.dumps([f.public() for f in s.flags])) for name, s in read.items()}
    for flag in (flag for found in flags.values() for flag in found):
        assert flag.pop("defined_in")
    return flags


@pytest.mark.usefixtures("with_torch")
def test_the_flags_of_every_script_at_the_pin_are_the_real_parser_s(sd_scripts):
    assert ours(sd_scripts) == really(sd_scripts)


@pytest.fixture(scope="session")
def older(tmp_path_factory):
    """A version's files, from the user's mirror or the network."""
    folder = tmp_path_factory.mktemp("older")
    with repositories.created(folder):
        pass

    def get(version: str) -> Path:
        commit, tree = VERSIONS[version], folder / version
        try:
            with repositories.opened(folder) as repo:
                repo.git.fetch("-q", "--depth=1", "--filter=blob:none", URL, commit)
                repo.git.worktree("add", "-q", "--no-checkout", tree, commit)
            with repositories.opened(tree) as repo:
                repo.git.sparse_checkout("set", "--no-cone", "/*.py", "/library/", "/networks/*.py")
                repo.git.checkout("-q")
        except proc.ProcError:
            pytest.skip(f"{version} of sd-scripts cannot be fetched")
        return tree

    return get


@pytest.mark.usefixtures("with_torch")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_flags_of_older_versions_are_the_real_parsers(older, version):
    tree = older(version)
    assert ours(tree) == really(tree)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
PLAIN = st.from_regex(r"[A-Za-z0-9_./=,-]{0,12}", fullmatch=True)
SCRIPTS = (
    *("anima_train_network", "flux_train_network", "hunyuan_image_train_network", "lumina_train_network"),
    *("sd3_train_network", "sdxl_train_network", "train_network"),
)


def scalars(flag: schema.Flag) -> st.SearchStrategy[object]:
    if flag.choices:
        return st.sampled_from([c for c in flag.choices if c is not None])
    if flag.type == "int":
        return st.integers(-(10**9), 10**9)
    if flag.type == "float":
        return st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9)
    if flag.type not in ("str", None):
        return st.integers(0, 1000) | st.floats(0, 1, allow_subnormal=False) | st.sampled_from(["5%", 1.0, 20.0])
    # argparse drops a lone `--` even where a value must follow, so it is refused
    return (PLAIN if is_path(flag) else WORDS).filter(lambda word: word != "--")


def values(flag: schema.Flag) -> st.SearchStrategy[object]:
    if flag.is_switch:
        return st.booleans()
    if not flag.is_list:
        return scalars(flag)
    safe = PLAIN.filter(lambda w: not w.startswith("-")) if flag.type == "str" else scalars(flag)
    if flag.dest in encode.TABLES:
        safe = safe.map("k={}".format)
    return st.lists(safe, max_size=3)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_real_parser_gives_back_the_values_of_the_file(real, real_parsers, tmp_path, script):
    known = real[script]
    usable = [flag for flag in known.flags if flag.dest not in (*argv.REFUSED, *SECRETS, "dataset_config")]
    configs = st.lists(st.sampled_from(usable), unique=True, max_size=20).flatmap(
        lambda flags: st.fixed_dictionaries({flag.dest: values(flag) for flag in flags})
    )

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(configs)
    def check(given_values):
        path = tmp_path / "c.toml"
        path.write_text(document.toml({"script": script, "all": given_values}), encoding="utf-8")
        loaded = load(path, environ={})
        parsed = real_parsers.parse(script, to_argv(loaded, known))
        for key, value in given_values.items():
            assert parsed[key] == expected(known.keys[key], value, tmp_path), (key, value)
        untouched = {f.dest: f.default for f in usable if f.dest not in given_values}
        assert untouched == {key: parsed[key] for key in untouched}

    check()


DATASET_KEYS = st.sampled_from(
    [
        *("resolution", "batch_size", "enable_bucket", "bucket_reso_steps", "network_multiplier", "validation_split"),
        *("num_repeats", "shuffle_caption", "caption_dropout_rate", "token_warmup_step", "face_crop_aug_range"),
        *("caption_extension", "class_tokens", "is_reg", "custom_attributes", "keep_tokens", "colour_aug"),
    ]
)
# no switches where a number is asked for: upstream takes them, and we do not
DATASET_VALUES = st.one_of(
    st.integers(1, 9),
    st.floats(0, 1),
    st.text(max_size=3),
    st.lists(st.integers(1, 9) | st.floats(0, 1), max_size=3),
    st.dictionaries(st.sampled_from("ab"), st.integers(-(2**63), 2**63 - 1), max_size=1),
)
SUBSETS = st.dictionaries(
    DATASET_KEYS | st.sampled_from(["image_dir", "metadata_file", "conditioning_data_dir"]), DATASET_VALUES, max_size=3
)
LIKELY = SUBSETS.map(lambda table: {"image_dir": "x", **table})
DATASETS = st.tuples(
    st.dictionaries(DATASET_KEYS, DATASET_VALUES, max_size=2), st.lists(SUBSETS | LIKELY, min_size=1, max_size=2)
).map(lambda parts: {**parts[0], "subsets": parts[1]})


def test_what_we_say_of_a_dataset_is_what_upstream_s_own_schema_says(real, real_parsers, tmp_path):
    known = real["train_network"]

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        general=st.dictionaries(DATASET_KEYS, DATASET_VALUES, max_size=2),
        sets=st.lists(DATASETS, min_size=1, max_size=2),
    )
    def check(general, sets):
        whole = {"general": general, "datasets": sets}
        path = tmp_path / "c.toml"
        path.write_text(document.toml({"script": "train_network", **whole}), encoding="utf-8")
        loaded = load(path, environ={})
        found = list(tables(View(loaded, known)))
        assert (not found) == real_parsers.takes(whole), [problem.message for problem in found]

    check()


def expected(flag: schema.Flag, value: object, folder: Path) -> object:
    from lora_training.config.paths import resolve

    if isinstance(value, list):
        return [expected(flag, item, folder) for item in value]
    if isinstance(value, str) and is_path(flag):
        return resolve(flag, value, folder, {})
    if flag.type_source is not None:
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        return converted(flag, text)["value"]
    return value


def test_the_help_of_every_flag_at_the_pin_has_an_english_half_which_alone_is_kept(real):
    for known in real.values():
        for flag in known.flags:
            assert flag.help != ""
            assert not any(ord(char) >= 0x3000 for char in flag.help or ""), flag.help
