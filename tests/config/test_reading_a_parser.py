from __future__ import annotations

from pathlib import Path

import pytest

from lora_training.config import schema
from lora_training.config.schema import reader, source
from lora_training.errors import ConfigError, UpstreamError
from tests.config.conftest import FILES
from tests.helpers import write


def changed(tree: Path, name: str, old: str, new: str) -> None:
    assert old in FILES[name]
    write(tree, {name: FILES[name].replace(old, new)})


def read(tree: Path) -> schema.Schema:
    return schema.read(tree, "train_network")


def test_flags_of_every_way_to_define_one_are_read_in_order(small):
    assert list(small.keys) == [
        *("pretrained_model_name_or_path", "output_dir", "network_module", "network_dim", "network_args"),
        *("learning_rate", "text_encoder_lr", "lr_warmup_steps", "save_precision", "sampler", "resolution"),
        *("max_train_epochs", "cache_latents", "shuffle_caption", "enable_bucket", "reg_data_dir", "seed"),
        "dataset_config",
    ]


def test_a_flag_has_argparse_s_own_fields(small):
    rate = small.keys["learning_rate"].public()
    assert rate == {
        "name": "--learning_rate",
        "dest": "learning_rate",
        "type": "float",
        "default": 2e-6,
        "choices": None,
        "nargs": None,
        "action": "store",
        "help": None,
        "required": False,
        "const": None,
        "defined_in": "add_training_arguments",
    }
    assert small.keys["cache_latents"].action == "store_true"
    assert small.keys["output_dir"].help == "directory to write"
    assert small.keys["dataset_config"].type == "Path"


def test_choices_come_from_a_list_that_grows_and_from_an_enum(small):
    assert small.keys["save_precision"].choices == (None, "fp16", "bf16")
    assert small.keys["sampler"].choices == ("euler", "ddim")
    assert small.keys["sampler"].default == "ddim"


def test_a_type_function_of_upstream_s_own_is_kept_with_its_source(small):
    flag = small.keys["lr_warmup_steps"]
    assert flag.type == "ratio"
    assert flag.type_source is not None
    assert "endswith" in flag.type_source


def test_a_flag_that_upstream_adds_is_there_without_a_change_of_ours(tree):
    new = (
        'parser.set_defaults(seed=None)\n    parser.add_argument("--brand-new", type=int, nargs="+", choices=range(3))'
    )
    changed(tree, "library/args.py", "parser.set_defaults(seed=None)", new)
    flag = read(tree).keys["brand_new"]
    assert (flag.name, flag.type, flag.nargs, flag.choices) == ("--brand-new", "int", "+", (0, 1, 2))


RAISES = """try:
        raise ValueError("no")
    except ValueError:
        n = 6
    parser.add_argument("--x", default=n)"""
EDITS = """parser.add_argument("--x")
    for a in parser._actions:
        if a.dest == "x":
            a.default = 10"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('parser.add_argument("--x", default=1 if True else 2)', 1),
        ('parser.add_argument("--x", default={"a": [1, 2]}["a"][-1])', 2),
        ('parser.add_argument("--x", **{"default": 3})', 3),
        ('parser.add_argument(*["--x"], default=(lambda a, b=4: a * b)(1))', 4),
        ('g = parser.add_argument_group("g")\n    g.add_argument("--x", default=5)', 5),
        (RAISES, 6),
        ('n = 0\n    while n < 7:\n        n += 1\n    parser.add_argument("--x", default=n)', 7),
        ('for n in range(20):\n        if n == 8:\n            break\n    parser.add_argument("--x", default=n)', 8),
        ('parser.add_argument("--x", default=", ".join(sorted({"b", "a"})))', "a, b"),
        ('parser.add_argument("--x", default="%s %d" % ("a", 1))', "a 1"),
        ('parser.add_argument("--x", default=torch.float16)', "torch.float16"),
        ('parser.add_argument("--x")\n    parser.set_defaults(x=9)', 9),
        (EDITS, 10),
        ('if (n := len("eleven chars")) > 3:\n        parser.add_argument("--x", default=n)', 12),
    ],
)  # fmt: skip
def test_ordinary_python_is_understood(tree, code, expected):
    changed(tree, "library/args.py", "parser.set_defaults(seed=None)", code)
    assert read(tree).keys["x"].default == expected


def test_a_flag_can_be_taken_away_again(tree):
    code = (
        "for action in list(parser._actions):\n"
        '        if action.dest == "resolution":\n'
        "            parser._remove_action(action)"
    )
    changed(tree, "library/args.py", "parser.set_defaults(seed=None)", code)
    assert "resolution" not in read(tree).keys


def test_a_decision_that_hangs_on_the_machine_names_its_line(tree):
    code = 'if torch.cuda.is_available():\n        parser.add_argument("--x")'
    changed(tree, "library/args.py", "parser.set_defaults(seed=None)", code)
    with pytest.raises(UpstreamError, match=r"torch\.cuda\.is_available\(\).*library/args\.py:\d+"):
        read(tree)


@pytest.mark.parametrize("code", ["while True:\n        pass", "add_training_arguments(parser, True)"])
def test_source_that_never_ends_is_given_up(tree, code, monkeypatch):
    monkeypatch.setattr(reader, "TIMEOUT_S", 3.0)
    changed(tree, "library/args.py", "parser.set_defaults(seed=None)", code)
    with pytest.raises(UpstreamError):
        read(tree)


def states(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


ACCIDENTS = {
    "unlink": "pathlib.Path(target).unlink()",
    "rename": "os.rename(target, target + '2')",
    "open": "open(target, 'w')",
    "os.open": "os.open(target, os.O_WRONLY | os.O_TRUNC)",
    "mkdir": "os.mkdir(target + '.d')",
    "link": "os.symlink(target, target + '.l')",
    "chmod": "os.chmod(target, 0)",
    "truncate": "os.truncate(target, 0)",
    "system": "os.system('rm ' + target)",
    "popen": "subprocess.run(['rm', target])",
    "posix_spawn": "os.posix_spawn('/bin/rm', ['rm', target], {})",
    "fork": "os.fork() or os._exit(0)",
    "exec": "os.execv('/bin/rm', ['rm', target])",
    "socket": "socket.create_connection(('127.0.0.1', 9))",
    "copy": "shutil.copy(__file__, target)",
}


@pytest.mark.parametrize("what", ACCIDENTS)
def test_reading_has_no_effect_on_files_processes_or_the_network(tree, tmp_path, what):
    target = tmp_path / "target"
    target.write_text("here")
    code = f"import os, pathlib, shutil, socket, subprocess\n    target = {str(target)!r}\n    {ACCIDENTS[what]}"
    changed(tree, "library/args.py", "parser.set_defaults(seed=None)", code)
    before = states(tmp_path)
    with pytest.raises(UpstreamError, match=r"is refused while the flags are read \(at .*library/args\.py:\d+"):
        read(tree)
    assert target.read_text() == "here"
    assert states(tmp_path) == before


def test_a_later_version_s_flags_are_read_where_they_have_moved(tree):
    write(
        tree,
        {
            "library/moved/__init__.py": "from .deeper import add_new_arguments\n",
            "library/moved/deeper.py": "import brand_new_package as b\nfrom torch.nn import *\n\n\n"
            "class Model(b.Base, metaclass=type):\n    size: b.Size | None = None\n\n    @b.no_grad()\n"
            "    def f(self): ...\n\n\ndef add_new_arguments(parser):\n"
            '    parser.add_argument("--moved", "-m", required=True, nargs="?", const=3, type=int, help="a help")\n',
        },
    )
    call = (
        "from library.moved import add_new_arguments\n    add_new_arguments(parser)\n    parser.set_defaults(seed=None)"
    )
    changed(tree, "library/args.py", "parser.set_defaults(seed=None)", call)
    flag = read(tree).keys["moved"]
    assert (flag.required, flag.const, flag.type, flag.help, flag.options) == (
        True,
        3,
        "int",
        "a help",
        ("--moved", "-m"),
    )
    assert flag.defined_in == "add_new_arguments"


def test_source_that_is_not_python_is_named(tree):
    write(tree, {"library/args.py": "def broken(:\n"})
    with pytest.raises(UpstreamError, match=r"library/args\.py of the upstream tree is not Python"):
        read(tree)


def test_an_unknown_script_is_answered_with_the_nearest(tree):
    write(tree, {"sdxl_train_network.py": FILES["train_network.py"]})
    with pytest.raises(ConfigError, match="no script `sdx_train_network`") as caught:
        schema.read(tree, "sdx_train_network")
    assert "did you mean `sdxl_train_network`" in caught.value.hint


def test_a_tree_that_is_not_there_is_an_upstream_error(tmp_path):
    with pytest.raises(UpstreamError, match="no training script"):
        schema.read(tmp_path / "nowhere", "train_network")


def test_the_dataset_schema_is_read_too(small):
    styles = small.datasets.styles
    assert str(styles["dreambooth"].dataset.keys["resolution"]) == "int or [int, int]"
    assert styles["dreambooth"].subset.required == ("image_dir",)
    assert set(styles["finetuning"].subset.keys) == {"metadata_file"}
    assert str(small.datasets.general.keys["caption_dropout_rate"]) == "float or int"


def test_a_network_s_arguments_are_followed_from_function_to_function(tree):
    wanted = {"loraplus_lr_ratio", "block_dims", "block_alphas", "conv_dim", "dropout"}
    assert source.network_arguments(tree, "networks.lora") == wanted


def test_arguments_that_go_where_nobody_can_follow_are_not_known(tree):
    write(tree, {"networks/lora.py": "def create_network(a, **kwargs):\n    return Net(**kwargs)\n"})
    assert source.network_arguments(tree, "networks.lora") is None
    assert source.network_arguments(tree, "lycoris.kohya") is None


def test_bucket_steps_of_a_class_and_its_base_both_hold(tree):
    code = """
import train_network


class Trainer(train_network.NetworkTrainer):
    def assert_extra_args(self, args, group):
        super().assert_extra_args(args, group)
        group.verify_bucket_reso_steps(48)


def setup_parser():
    return train_network.setup_parser()
"""
    write(tree, {"x_train_network.py": code})
    assert read(tree).bucket_steps == 64
    assert schema.read(tree, "x_train_network").bucket_steps == 192
