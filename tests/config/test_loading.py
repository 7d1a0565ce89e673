from __future__ import annotations

import pytest

from lora_training.config.loading import load
from lora_training.config.tables import LaunchTable
from lora_training.errors import ConfigError
from lora_training.problems import Position
from tests.config.helpers import said

BASE = 'script = "train_network"\n'


def test_flags_keep_the_file_s_order_and_places(config):
    loaded = config(BASE + "seed = 1\n[b]\nz = 0\n[a]\ny = false\nx = ''\n")
    assert dict(loaded.values) == {"seed": 1, "z": 0, "y": False, "x": ""}
    assert loaded.entries["y"].position == Position(6, 1)
    assert loaded.problems == ()


def test_the_environment_goes_over_the_file_and_set_over_both(config):
    text = BASE + "[o]\nlearning_rate = 1\nseed = 1\nnetwork_dim = 1\n"
    loaded = config(text, sets=("seed=3",), LORA_SEED="2", LORA_LEARNING_RATE="2")
    assert dict(loaded.values) == {"learning_rate": 2, "seed": 3, "network_dim": 1}
    assert [loaded.entries[k].where.split("/")[-1] for k in loaded.values] == [
        *("LORA_LEARNING_RATE", "--set seed", "config.toml"),
    ]


def test_home_and_cache_are_no_overrides(config):
    assert dict(config(BASE, LORA_HOME="/h").values) == {}


def test_overrides_reach_into_our_tables_datasets_and_arguments(config):
    text = BASE + "[n.network_args]\na = 1\n[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1\n[run]\nretries = 1\n"
    sets = ("network_args.b=x=y", "datasets.0.subsets.0.num_repeats=5", "run.retries=9", "launch.num_processes=2")
    loaded = config(text, sets=sets, LORA_RUN__RESUME="never")
    assert loaded.values["network_args"] == {"a": 1, "b": "x=y"}
    assert loaded.datasets[0]["subsets"][0]["num_repeats"] == 5
    assert (loaded.run.retries, loaded.run.resume) == (9, "never")
    assert loaded.launch == LaunchTable(num_processes=2)


def test_arguments_written_as_words_take_an_override(config):
    loaded = config(BASE + 'network_args = ["a=1", "b=2"]\n', sets=("network_args.b=3",))
    assert loaded.values["network_args"] == {"a": "1", "b": 3}


@pytest.mark.parametrize("item", ["seed", "=1", "a..b=1", "datasets.3.x=1", "datasets.x=1", "launch.num_processes.a=1"])
def test_an_override_without_a_place_is_refused(config, item):
    with pytest.raises(ConfigError, match="--set"):
        config(BASE + "[[datasets]]\n[launch]\nnum_processes = 1\n", sets=(item,))


def test_a_flag_in_two_tables_is_a_problem_with_both_lines(config):
    problem = said(config(BASE + "[a]\nseed = 1\n[b]\nseed = 2\n").problems, "given twice")
    assert (problem.position, problem.hint) == (Position(5, 1), "it is already set in line 3; keep one of them")


def test_toml_that_is_none_is_named_with_line_and_column(config):
    with pytest.raises(ConfigError, match=r"config\.toml:2:8: not valid TOML") as caught:
        config(BASE + "seed = ]\n")
    assert caught.value.hint == "mend that place: a line of TOML is `key = value`, with texts in quotes"


def test_a_path_is_shown_without_going_back_unless_a_link_makes_that_another_file(config, tmp_path):
    config(BASE)
    (tmp_path / "a").mkdir()
    (tmp_path / "far" / "b").mkdir(parents=True)
    (tmp_path / "far" / "config.toml").write_text(BASE)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "b")
    assert load(tmp_path / "a" / ".." / "config.toml", environ={}).path == tmp_path / "config.toml"
    assert load(tmp_path / "link" / ".." / "config.toml", environ={}).path == tmp_path / "link" / ".." / "config.toml"


def test_a_key_that_is_given_twice_is_named(config):
    with pytest.raises(ConfigError, match=r"config\.toml:\d+:\d+: not valid TOML: `seed` is given twice"):
        config(f"{BASE}seed = 1\nseed = 2\n")


@pytest.mark.parametrize(
    ("data", "place", "hint"),
    [
        (b'script = "x"\na = "\xff"\n', r":2:6: not UTF-8", "if it is Latin-1: `iconv -f LATIN1 "),
        ('script = "x"\n'.encode("utf-16"), r":1:1: not UTF-8", "it looks like UTF-16: `iconv -f UTF-16 "),
    ],
)
def test_an_encoding_that_is_not_utf_8_is_named(tmp_path, data, place, hint):
    (tmp_path / "c.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=place) as caught:
        load(tmp_path / "c.toml", environ={})
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("depth", [101, 400, 5000])
@pytest.mark.parametrize(
    "text", ["a = {0}{1}", "{2}b = 1", "[{2}b]", "[[datasets]]\nx = {0}{1}", "a = {3}1{4}"]
)  # fmt: skip
def test_nesting_without_end_is_one_error(config, text, depth):
    parts = ("[" * depth, "]" * depth, "a." * depth, "{b=" * depth, "}" * depth)
    with pytest.raises(ConfigError, match="more than 100 deep"):
        config(BASE + text.format(*parts) + "\n")


def test_a_byte_order_mark_and_windows_lines_are_taken(tmp_path):
    (tmp_path / "c.toml").write_bytes(b'\xef\xbb\xbfscript = "x"\r\nseed = 1\r\n')
    loaded = load(tmp_path / "c.toml", environ={})
    assert loaded.entries["seed"].position == Position(2, 1)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_one_error(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / name, environ={})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[launch]\nnum_proceses = 2\n", ("num_proceses", "did you mean `num_processes`?")),
        ("[run]\nretires = 2\n", ("retires", "did you mean `retries`?")),
        ("[launch]\nnum_processes = 0\n", ("num_processes", "at least 1")),
        ('[launch]\nnum_processes = "all"\n', ("num_processes", '"auto"')),
        ('[launch]\nrdzv_backend = "etcd"\n', ("rdzv_backend", '"static" or "c10d"')),
        ("[launch]\nnum_processes = true\n", ("num_processes", "whole number")),
        ("[launch]\ngpu_ids = [0, 0]\n", ("gpu_ids", "different")),
        ('[launch]\nbackend = "mpi"\n', ("backend", '"accelerate" or "filestore"')),
        ("[launch]\nnum_machines = 2\nmachine_rank = 2\n", ("machine_rank = 2", "from 0 to 1")),
        ("[run]\nstall_timeout = 0\n", ("stall_timeout", "above 0")),
        ('[run]\nresume = "${NOWHERE}/x"\n', ("no variable 'NOWHERE'",)),
        ("[runtime]\nx = 1\n", ("runtime.x", "switch or a table")),
        ("run = 1\n", ("[run] must be a table",)),
        ("datasets = 1\n", ("array of tables",)),
        ("[[dataset]]\nresolution = 1\n", ("[[dataset]]", "did you mean `datasets`?")),
    ],
)
def test_a_mistake_in_our_own_tables_is_named(config, text, words):
    problem = said(config(BASE + text).problems, *words)
    assert problem.position


def test_a_missing_script_says_what_to_write(config):
    assert said(config("seed = 1\n").problems, "`script` is missing").hint == (
        'for example: script = "sdxl_train_network"'
    )


def test_resume_is_relative_to_the_file(config, tmp_path):
    assert config(BASE + '[run]\nresume = "state"\n').run.resume == str(tmp_path / "state")


def test_the_precision_of_the_launch_is_passed_on_as_the_flag_unless_that_is_set(config):
    launch = '[launch]\nmixed_precision = "bf16"'
    loaded = config(f'script = "train_network"\n{launch}')
    assert (loaded.values["mixed_precision"], loaded.problems) == ("bf16", ())
    assert loaded.entries["mixed_precision"].position.line == 3
    assert config(f'script = "train_network"\nmixed_precision = "no"\n{launch}').values["mixed_precision"] == "no"
    assert config('script = "train_network"\n[launch]\nmixed_precision = 5').values.get("mixed_precision") is None
