"""The check against the real scripts at the pin. Nothing of upstream is imported."""

from __future__ import annotations

import subprocess

import pytest

from lora_training import families
from lora_training.config import checks, schema
from lora_training.config.checks import Machine, check, require
from lora_training.config.loading import load
from lora_training.errors import ConfigError
from lora_training.problems import Position, Problem
from tests.config.helpers import images, said

pytestmark = pytest.mark.upstream

FLOW = sorted(family.script for family in families.FAMILIES if family.is_flow)
MODEL = {
    "flux_train_network": 'clip_l = "m"\nt5xxl = "m"\nae = "m"\n',
    "lumina_train_network": 'gemma2 = "m"\nae = "m"\n',
    "hunyuan_image_train_network": 'text_encoder = "m"\nbyt5 = "m"\nvae = "m"\n',
    "anima_train_network": 'qwen3 = "m"\nvae = "m"\n',
}
DATA = '[[datasets]]\nresolution = 512\n{0}[[datasets.subsets]]\nimage_dir = "images"\ncaption_extension = ".txt"\n{1}'


@pytest.fixture
def checked(tmp_path, real):
    """Check a valid configuration with `text` and the given data settings added."""
    images(tmp_path / "images")
    (tmp_path / "m").write_text("")

    def run(
        text: str = "",
        *,
        script: str = "sdxl_train_network",
        data: str = "",
        subset: str = "",
        machine: Machine | None = None,
        module: str = "n",
    ) -> tuple[Problem, ...]:
        head = (
            f'script = "{script}"\npretrained_model_name_or_path = "m"\nnetwork_module = "{module}"\noutput_dir = "o"\n'
        )
        body = f"{head}{MODEL.get(script, '')}{text}\n{DATA.format(data, subset)}"
        path = tmp_path / "config.toml"
        path.write_text(body, encoding="utf-8")
        loaded = load(path, environ={"LORA_CACHE": str(tmp_path / "cache")})
        return check(loaded, real[script], machine or Machine())

    return run


@pytest.mark.parametrize("script", ["train_network", "sdxl_train_network", *FLOW])
def test_a_right_configuration_has_no_problems(checked, script):
    assert checked(script=script) == ()


@pytest.mark.parametrize(
    ("mistake", "near"),
    [
        ("[optimizer]\nlearning_rat = 1", "learning_rate"),
        ("[launch]\nnum_proceses = 1", "num_processes"),
        ("[run]\nretires = 1", "retries"),
        ("[a]\nnetwork_arg = {x = 1}", "network_args"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_right_name(checked, mistake, near):
    assert said(checked(mistake), f"did you mean `{near}`?").position


def test_a_misspelt_key_of_a_dataset_and_of_a_subset_too(checked):
    found = checked(data="batchsize = 1\n", subset="num_repeat = 2\n")
    assert said(found, "[[datasets]]", "did you mean `batch_size`?").position == Position(8, 1)
    assert said(found, "[[datasets.subsets]]", "did you mean `num_repeats`?").position == Position(12, 1)


def test_a_misspelt_runtime_patch_too(checked):
    found = checked("[runtime]\ntiny-unt = true", machine=Machine(runtime=("tiny-unet", "nan-guard")))
    assert said(found, "did you mean `tiny-unet`?")


def test_a_runtime_patch_outside_of_its_table_is_told_its_place(checked):
    found = checked("nan_guard = true", machine=Machine(runtime=("tiny-unet", "nan-guard")))
    assert said(found, "no flag `nan_guard`", "write runtime.nan-guard: it is a runtime patch")


def test_a_misspelt_table_of_ours_too(checked):
    assert said(checked("[lunch]\nnum_processes = 2"), "put `num_processes` under [launch]")
    assert said(checked("[runtimes]\ntiny-unet = true"), "did you mean the table [runtime] instead of [runtimes]?")
    assert said(checked(data="[[datasets.subset]]\nimage_dir = 'x'\n"), "did you mean `subsets`?")


def test_a_flag_of_another_script_is_told_whose_it_is(checked):
    assert said(checked("guidance_scale = 1.0"), "no flag `guidance_scale`", "only flux_train_network has it")


def test_a_key_of_another_table_is_told_its_place(checked):
    assert said(checked("num_repeats = 3"), "no flag `num_repeats`", "under [[datasets]]")
    assert said(checked(data="image_dir = 'x'\n"), "under [[datasets.subsets]]")
    assert said(checked(data="learning_rate = 1.0\n"), "give it outside the dataset tables")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('seed = "1"', ("`seed` must be a whole number", "without quotes")),
        ('save_precision = "fp17"', ("cannot be 'fp17'", "legal: float, fp16, bf16")),
        ('config_file = "x.toml"', ("not passed on", "lora config import")),
        ("max_train_steps = 0", ("nothing would be trained", "max_train_steps")),
        ("max_train_epochs = 0", ("nothing would be trained", "max_train_epochs")),
        ("save_every_n_epochs = 0", ("save_every_n_epochs", "above 0")),
        (
            "persistent_data_loader_workers = true\nmax_data_loader_n_workers = 0",
            ("needs workers",),
        ),
        ("adaptive_noise_scale = 0.1", ("adaptive_noise_scale", "needs `noise_offset`")),
        ("train_inpainting = true\ncache_latents = true", ("exclude each other",)),
        ("deepspeed = true", ("`deepspeed` is refused", "num_processes")),
        ('use_8bit_adam = true\noptimizer_type = "Lion"', ("`use_8bit_adam` and `optimizer_type`",)),
        ("full_bf16 = true", ('needs mixed_precision = "bf16"',)),
        ("fp8_base = true", ('needs mixed_precision = "fp16" or "bf16"',)),
        ('log_with = "tensorboard"', ("needs `logging_dir`",)),
        ("cache_text_encoder_outputs = true", ("cannot be trained", "network_train_unet_only = true")),
        ("v2 = true", ("not for SDXL",)),
        ("fused_backward_pass = true\noptimizer_type = 'AdamW'", ("works only with",)),
        ('vae = "gone.safetensors"', ("gone.safetensors does not exist",)),
        ('dataset_config = "m"', ("has no effect beside [[datasets]]",)),
        ("scale_v_pred_loss_like_noise_pred = true", ("needs `v_parameterization`",)),
    ],
)
def test_an_error_is_named_at_its_place(checked, text, words):
    problem = said(tuple(p for p in checked(text) if p.severity == "error"), *words)
    assert problem.position is not None
    assert problem.position.line >= 5


@pytest.mark.parametrize(
    ("script", "rates", "key"),
    [
        ("train_network", "learning_rate = 0", "learning_rate"),
        ("train_network", "unet_lr = 0\ntext_encoder_lr = [0.0, 1e-4]", "unet_lr"),
        ("flux_train_network", "unet_lr = 0\ntext_encoder_lr = [0.0, 1e-4]", None),
        ("train_network", "learning_rate = 0\ntext_encoder_lr = 1e-5", None),
        ("train_network", "learning_rate = 0\ntext_encoder_lr = 1e-5\nnetwork_train_unet_only = true", "learning_rate"),
        ("train_network", "text_encoder_lr = 0\nnetwork_train_text_encoder_only = true", "text_encoder_lr"),
        ("train_network", "unet_lr = 0", None),
        ("hunyuan_image_train_network", "unet_lr = 0", "unet_lr"),
        ("flux_train_network", 'learning_rate = 0\n[x.network_args]\nnetwork_reg_lrs = "double=1e-4"', None),
    ],
)
def test_learning_rates_that_leave_nothing_to_train_are_an_error(checked, script, rates, key):
    module = "networks.lora_flux" if script == "flux_train_network" else "networks.lora"
    found = [each for each in checked(rates, script=script, module=module) if "learning rate is 0" in each.message]
    assert [each.key for each in found] == ([key] if key else [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('optimizer_type = "Prodigy"\nlearning_rate = 1e-4', ("set learning_rate = 1.0",)),
        ('optimizer_type = "AdamW9bit"', ("did you mean `AdamW8bit`?",)),
        ("xformers = true\nsdpa = true", ("only one of",)),
        ("zero_terminal_snr = true", ("does nothing without `v_parameterization`",)),
        ("clip_skip = 2", ("not meant for SDXL",)),
        ("sample_every_n_epochs = 1", ("does nothing without `sample_prompts`",)),
        ('train_data_dir = "images"', ("no effect beside [[datasets]]",)),
        ('mixed_precision = "fp16"\n[launch]\nmixed_precision = "bf16"', ("which is what counts",)),
    ],
)
def test_a_warning_is_told_apart(checked, text, words):
    assert said(checked(text), *words).severity == "warning"


@pytest.mark.parametrize(("key", "value"), [("resolution", "'256'"), ("train_batch_size", 2), ("keep_tokens", 1)])
def test_a_flag_that_the_datasets_override_is_a_warning_in_the_file_and_an_error_in_an_override(
    checked, tmp_path, real, key, value
):
    words = (f"`{key}` changes nothing", "counts: change that one")
    own = {"data": "batch_size = 1\n", "subset": "keep_tokens = 2\n"}
    assert said(checked(f"{key} = {value}", **own), *words).severity == "warning"
    checked(**own)
    overridden = load(tmp_path / "config.toml", sets=[f"{key}={value}"], environ={})
    assert said(check(overridden, real["sdxl_train_network"]), *words).severity == "error"


def test_a_hint_of_an_override_names_its_whole_key(checked, tmp_path, real):
    checked()
    found = check(load(tmp_path / "config.toml", sets=["num_repeats=2"], environ={}), real["sdxl_train_network"])
    assert said(found, "under [[datasets]]: --set datasets.0.subsets.0.num_repeats=...")


@pytest.mark.parametrize("key", ["pretrained_model_name_or_path", "network_module", "output_dir"])
def test_what_nothing_can_be_trained_without_is_asked_for(checked, tmp_path, real, key):
    checked()
    path = tmp_path / "config.toml"
    path.write_text("\n".join(line for line in path.read_text().split("\n") if not line.startswith(key)))
    found = check(load(path, environ={}), real["sdxl_train_network"])
    assert said(found, f"`{key}` is missing")


@pytest.mark.parametrize(
    ("script", "steps", "right"),
    [
        ("train_network", 32, False),
        ("train_network", 128, True),
        ("sdxl_train_network", 32, True),
        ("sdxl_train_network", 16, False),
        ("sd3_train_network", 32, True),
        ("flux_train_network", 32, False),
        ("lumina_train_network", 16, False),
        ("hunyuan_image_train_network", 32, False),
        ("anima_train_network", 16, True),
        ("anima_train_network", 8, False),
    ],
)
def test_bucket_steps_are_what_the_script_s_own_assertions_take(checked, script, steps, right):
    found = checked(script=script, data=f"enable_bucket = true\nbucket_reso_steps = {steps}\n")
    assert (found == ()) is right
    assert right or said(found, "must be a multiple of")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a/b", "without a folder"),
        ("", "without a folder"),
        ("-rf", "taken for an option"),
        ("a\\nb", "control characters"),
        ("é" * 101, "200 bytes at most"),
    ],
)
def test_a_name_that_files_or_commands_cannot_have(checked, name, why):
    assert said(checked(f'output_name = "{name}"'), "`output_name` cannot be", why).severity == "error"


def test_a_name_may_have_spaces_and_other_letters(checked):
    assert checked('output_name = "my café-1.5"') == ()


def test_a_resolution_outside_the_buckets_is_named(checked):
    found = checked(data="enable_bucket = true\nmax_bucket_reso = 448\n")
    assert said(found, "512x512 is outside the buckets", "`max_bucket_reso` is 448")


@pytest.mark.parametrize("size", ["0", "[512, 0]", "[-64, 64]"])
def test_a_resolution_that_is_no_size_is_named(checked, size):
    another = '[[datasets.subsets]]\nimage_dir = "images"\ncaption_extension = ".txt"\n[[datasets]]\n'
    (found,) = checked(data=f"{another}resolution = {size}\n")
    assert (found.severity, found.message) == ("error", "this dataset has no usable `resolution`")


@pytest.mark.parametrize("option", ["shuffle_caption = true", "caption_dropout_rate = 0.1", "token_warmup_step = 5"])
def test_captions_that_change_cannot_go_with_cached_outputs(checked, option):
    text = "cache_text_encoder_outputs = true\nnetwork_train_unet_only = true"
    assert said(checked(text, subset=option), "cannot be used while `cache_text_encoder_outputs` is on")
    # a flag is every subset's default
    assert said(checked(f"{text}\n{option}"), "cannot be used while")


def test_anima_alone_drops_captions_that_are_cached(checked):
    text = "cache_text_encoder_outputs = true\nnetwork_train_unet_only = true"
    assert checked(text, script="anima_train_network", subset="caption_dropout_rate = 0.1\n") == ()


def test_images_that_change_cannot_go_with_cached_latents(checked):
    assert said(checked("cache_latents = true", subset="color_aug = true\n"), "`color_aug`", "latents are cached")


@pytest.mark.parametrize("script", FLOW)
def test_options_that_do_nothing_on_a_flow_model_are_named(checked, real, script):
    for key in families.of(script).inert:
        if key != "fused_backward_pass":
            value = "true" if real[script].keys[key].is_switch else "5"
            found = checked(f"{key} = {value}", script=script)
            assert said(found, f"`{key}` does nothing in {script}").severity == "warning"


@pytest.mark.parametrize("text", ['loss_type = "huber"', 'loss_type = "smooth_l1"\nhuber_schedule = "snr"'])
def test_a_huber_schedule_by_snr_raises_on_a_flow_model(checked, text):
    assert said(checked(text, script="flux_train_network"), "raises in flux_train_network").severity == "error"
    assert checked(text, script="sdxl_train_network") == ()


def test_a_missing_text_encoder_is_named_but_not_for_chroma(checked, tmp_path):
    found = checked('model_type = "chroma"', script="flux_train_network")
    assert not [p for p in found if "clip_l" in p.message]


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ('log_with = "wandb"', "wandb"),
        ("xformers = true", "xformers"),
        ("deepspeed = true", "deepspeed"),
    ],
)
def test_a_package_that_an_option_needs_is_looked_for(checked, text, package):
    assert said(checked(text, machine=Machine(installed=lambda name: name != package)), f"`{package}`, which is not")


class TestNetwork:
    @pytest.fixture
    def networked(self, checked):
        """The same with a real network module, and arguments for it."""

        def run(arguments: str, *, module: str = "networks.lora", script: str = "sdxl_train_network"):
            return checked(f"network_args = {arguments}", script=script, module=module)

        return run

    def test_a_misspelt_argument_is_answered_with_the_right_name(self, networked):
        problem = said(networked("{loraplus_lr_ration = 16}"), "in silence", "did you mean `loraplus_lr_ratio`?")
        assert problem.severity == "error"

    def test_arguments_as_words_are_looked_at_too(self, networked):
        assert said(networked('["conv_dim=4", "conv_alpa=1"]'), "did you mean `conv_alpha`?")

    def test_an_argument_of_another_network_is_a_warning(self, networked):
        assert said(networked("{train_blocks = 'all'}"), "reads no argument `train_blocks`").severity == "warning"
        assert networked("{train_blocks = 'all'}", module="networks.lora_flux", script="flux_train_network") == ()

    def test_right_arguments_and_those_of_a_module_elsewhere_pass(self, networked):
        assert networked("{conv_dim = 4, down_lr_weight = 'sine', dropout = 0.1}") == ()
        assert networked("{algo = 'lokr', anything = 1}", module="lycoris.kohya") == ()

    def test_a_misspelt_module_is_answered_with_the_right_name(self, networked):
        assert said(networked("[]", module="networks.lroa"), "did you mean `networks.lora`?")

    def test_another_family_s_module_is_a_warning(self, networked):
        assert said(networked("[]", module="networks.lora_flux"), "the network of flux").severity == "warning"


def test_a_missing_file_is_answered_with_a_similar_name_not_with_any_of_the_same_ending(checked, tmp_path):
    (tmp_path / "syn.safetensors").touch()
    assert said(checked('vae = "sin.safetensor"'), "did you mean `syn.safetensors`?")
    assert said(checked('vae = "abc.safetensors"'), "put it there, or change the path")


def test_a_network_that_upstream_lacks_is_answered_with_a_similar_one_only(checked):
    assert said(checked(module="networks.lora_flx"), "did you mean `networks.lora_flux`?")
    assert said(checked(module="networks.nixda"), "no module `networks.nixda`", "for example networks.lora")


def test_chroma_needs_its_attention_mask(checked):
    text = 'model_type = "chroma"'
    assert said(checked(text, script="flux_train_network"), "needs apply_t5_attn_mask = true")
    assert checked(f"{text}\napply_t5_attn_mask = true", script="flux_train_network") == ()


def test_an_optimizer_s_package_is_looked_for(checked):
    machine = Machine(installed=lambda package: package != "prodigyopt")
    found = checked('optimizer_type = "prodigy"\nlearning_rate = 1.0', machine=machine)
    assert said(found, "needs the package `prodigyopt`", "install prodigyopt")
    assert said(checked('optimizer_type = "prodigyopt.Prodigy"\nlearning_rate = 1.0', machine=machine), "prodigyopt")
    lion = Machine(installed=lambda package: package != "lion_pytorch")
    assert said(checked("use_lion_optimizer = true", machine=lion), "lion_pytorch").key == "use_lion_optimizer"


class TestFiles:
    def test_a_folder_that_is_not_there_is_placed(self, checked, tmp_path):
        found = checked(subset="[[datasets.subsets]]\nimage_dir = 'nope/deep'\n")
        problem = said(found, "nope/deep does not exist", f"{tmp_path} exists, nope in it does not")
        assert problem.position == Position(12, 1)

    def test_a_misspelt_folder_is_told_the_one_that_exists(self, checked):
        assert said(checked(subset="[[datasets.subsets]]\nimage_dir = 'image'\n"), "did you mean `images`?")

    def test_a_folder_without_images_is_an_error(self, checked, tmp_path):
        (tmp_path / "empty").mkdir()
        assert said(checked(subset="[[datasets.subsets]]\nimage_dir = 'empty'\n"), "has no images")

    def test_images_in_subfolders_are_pointed_at(self, checked, tmp_path):
        images(tmp_path / "outer" / "inner")
        assert said(checked(subset="[[datasets.subsets]]\nimage_dir = 'outer'\n"), "give each a subset")

    def test_images_without_captions_are_counted(self, checked, tmp_path):
        images(tmp_path / "bare", captions=None, count=5)
        found = checked(subset="[[datasets.subsets]]\nimage_dir = 'bare'\n")
        assert said(found, "5 of 5 images", "no caption (.caption)").severity == "warning"
        assert checked(subset="[[datasets.subsets]]\nimage_dir = 'bare'\nclass_tokens = 'cat'\n") == ()

    def test_captions_under_another_suffix_are_found(self, checked, tmp_path):
        images(tmp_path / "txt")
        found = checked(subset="[[datasets.subsets]]\nimage_dir = 'txt'\n")
        assert said(found, 'set caption_extension = ".txt"')

    @pytest.mark.parametrize(("data", "words"), [(b"", "is empty"), (b"\xff\xfe", "is not UTF-8")])
    def test_a_caption_that_upstream_would_die_of_is_an_error(self, checked, tmp_path, data, words):
        (tmp_path / "images/0.txt").write_bytes(data)
        assert said(checked(), "0.txt", words).severity == "error"

    @pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
    def test_the_command_of_the_hint_mends_a_caption_in_another_encoding(self, checked, tmp_path, encoding):
        caption = tmp_path / "images/0.txt"
        caption.write_text("un café", encoding=encoding)
        command = str(said(checked(), "is not UTF-8").hint).split("`")[1]
        subprocess.run(["/bin/sh", "-c", command], check=True)
        assert caption.read_text(encoding="utf-8") == "un café"
        assert checked() == ()

    def test_what_lora_makes_itself_may_be_missing(self, checked):
        text = 'vae = "${LORA_CACHE}/smoke/vae"\n'
        assert said(checked(text), "does not exist")
        assert checked(f'{text}[run]\nassets = "smoke"\n') == ()

    @pytest.mark.parametrize(("folder", "patch"), [("smoke", "tiny-unet"), ("smoke-sdxl", "tiny-models")])
    def test_a_smoke_model_without_its_runtime_patch_is_an_error(self, checked, tmp_path, real, folder, patch):
        model = f"pretrained_model_name_or_path={tmp_path}/cache/{folder}/model"
        checked()
        for sets, number in (([], 1), ([f"runtime.{patch}=true"], 0), ([f"runtime.{patch}=false"], 1)):
            loaded = load(tmp_path / "config.toml", sets=[model, *sets], environ={"LORA_CACHE": f"{tmp_path}/cache"})
            found = check(loaded, real["sdxl_train_network"])
            assert sum(f"needs the runtime patch {patch}" in each.message for each in found) == number

    @pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "nul\\u0000byte"])
    def test_a_name_that_no_system_can_look_up_is_not_there(self, checked, name):
        found = checked(f'vae = "./{name}"\n', subset=f'[[datasets.subsets]]\nimage_dir = "{name}"\n')
        assert [p.severity for p in found] == ["error", "error"]

    @pytest.mark.parametrize("key", ["vae", "logging_dir"])
    def test_a_path_of_windows_is_told_as_wsl_has_it(self, checked, key):
        text = f"{key} = 'C:\\data\\my files'"
        assert said(checked(text), f"`{key}`", "is a path of Windows", "in WSL, write /mnt/c/data/my files")

    def test_a_hub_id_need_not_be_a_file(self, checked):
        assert checked('vae = "stabilityai/sd-vae-ft-mse"') == ()


def test_all_problems_come_at_once_in_the_file_s_order(checked):
    found = checked('seed = "x"\nlearning_rat = 1\nmax_train_steps = 0')
    assert [p.position.line for p in found if p.position] == [5, 6, 7]


def test_a_train_data_dir_needs_folders_with_repeats(tmp_path, real):
    images(tmp_path / "data" / "cats")
    path = tmp_path / "c.toml"
    path.write_text('script = "train_network"\ntrain_data_dir = "data"\nresolution = "512"\n')
    assert said(check(load(path, environ={}), real["train_network"]), "<repeats>_<words>", "10_cat")


def test_fsdp_in_the_environment_is_refused(tmp_path, real):
    path = tmp_path / "c.toml"
    path.write_text('script = "train_network"\n')
    loaded = load(path, environ={"ACCELERATE_USE_FSDP": "true"})
    assert said(check(loaded, real["train_network"]), "FSDP, which is refused", "unset")


def test_errors_stop_a_training_and_warnings_do_not(checked, tmp_path):
    found = checked("clip_skip = 2")
    loaded = load(tmp_path / "config.toml", environ={})
    require(loaded, found)
    with pytest.raises(ConfigError, match="exclude each other") as caught:
        require(loaded, checked("full_fp16 = true\nfull_bf16 = true"))
    assert caught.value.exit_code == 3
    assert "lora config check" in caught.value.hint


def test_a_file_without_a_known_script_is_checked_as_far_as_possible(tmp_path, sd_scripts):
    path = tmp_path / "c.toml"
    path.write_text('script = "sdxl_train_networks"\n[run]\nretires = 1\n')
    found = checks.file(path, lambda name: schema.read(sd_scripts, name), environ={})
    assert said(found, "did you mean `sdxl_train_network`?").position == Position(1, 1)
    assert said(found, "did you mean `retries`?")


def test_a_file_that_is_no_toml_is_one_problem(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("a = 1\na = 2\n")
    (problem,) = checks.file(path, lambda _name: pytest.fail("not asked"), environ={})
    assert problem.place == f"{path}:2:6"


def test_the_pin_has_the_scripts_that_the_family_rules_name(real):
    assert set(real) == {family.script for family in families.FAMILIES}


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
def test_a_number_that_is_not_finite_is_refused(checked, value: str) -> None:
    said(checked(f"learning_rate = {value}"), "learning_rate", "finite")


def test_a_network_argument_without_a_value_is_refused(checked) -> None:
    said(checked('network_args = ["conv_dim=4", "foo"]'), "network_args", "key=value", "foo")


def test_a_state_to_resume_from_that_is_not_there_is_an_error(checked) -> None:
    said(checked('[run]\nresume = "states/none"'), "resume", "does not exist")
    assert not checked('[run]\nresume = "never"')


@pytest.mark.parametrize("given", ['resume = "state"', "resume_from_huggingface = true"])
def test_upstreams_own_ways_to_go_on_from_a_state_are_refused(checked, given: str) -> None:
    said(checked(given), f"`{given.split(maxsplit=1)[0]}` is not passed on", "`[run] resume`")


@pytest.mark.parametrize("optimizer", ["Prodigy", "DAdaptAdam"])
def test_an_optimizer_of_one_rate_does_not_go_with_lora_plus(checked, optimizer: str) -> None:
    def given(ratio: float, name: str) -> tuple[Problem, ...]:
        text = f'optimizer_type = "{name}"\nlearning_rate = 1.0\n[x.network_args]\nloraplus_lr_ratio = {ratio}'
        return checked(text, script="train_network", module="networks.lora")

    said(given(16, optimizer), "one learning rate", "loraplus_lr_ratio")
    assert not given(1, optimizer)
    assert not given(16, "AdamW")
