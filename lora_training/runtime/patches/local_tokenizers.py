"""Read the tokenizers of Lumina and HunyuanImage from `tokenizer_cache_dir` in the way of the other families.

Those are read from a folder there that is named after the repository, as in `openai_clip-vit-large-patch14`. Upstream
takes that place for a cache of huggingface_hub with Lumina, and loads those of HunyuanImage from the hub as well.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from lora_training.runtime.model import NoSettings, RuntimePatch, Target, wrap_function


def install(module: ModuleType, _settings: NoSettings) -> None:
    """Wrap the class that loads the tokenizers."""
    if module.__name__ == "library.strategy_lumina":
        wrap_function(module, "LuminaTokenizeStrategy.__init__", _lumina)
    elif module.__name__ == "library.strategy_hunyuan_image":
        wrap_function(module, "HunyuanImageTokenizeStrategy.__init__", _hunyuan)


def _lumina(wrapped: Any, _: Any, args: Any, kwargs: Any) -> None:
    from library import strategy_lumina

    strategy_lumina.GEMMA_ID = _place(strategy_lumina.GEMMA_ID, *args[2:], **kwargs)
    wrapped(*args, **kwargs)


def _hunyuan(wrapped: Any, _: Any, args: Any, kwargs: Any) -> None:
    from library import hunyuan_image_text_encoder as encoders

    wrapped(*args, **kwargs)
    # both are loaded again together with the text encoders, without the folder
    encoders.BYT5_TOKENIZER_PATH = _place(encoders.BYT5_TOKENIZER_PATH, *args, **kwargs)
    encoders.QWEN_2_5_VL_IMAGE_ID = _place(encoders.QWEN_2_5_VL_IMAGE_ID, *args, **kwargs)


def _place(repository: str, tokenizer_cache_dir: str | None = None, **_: Any) -> str:
    """Return the folder of a tokenizer, or `repository` where there is none."""
    folder = Path(tokenizer_cache_dir or "", repository.replace("/", "_"))
    return str(folder) if tokenizer_cache_dir and folder.is_dir() else repository


PATCH = RuntimePatch(
    name="local-tokenizers",
    reason="Upstream asks the hub for tokenizers of Lumina and HunyuanImage although the configuration has them.",
    upstream_version="v0.11.1",
    verification="tests/families/test_families.py",
    removal_condition="upstream reads every tokenizer from tokenizer_cache_dir",
    targets=(
        Target("library.strategy_lumina", "LuminaTokenizeStrategy.__init__", "735027dde12d0a0a"),
        Target("library.strategy_hunyuan_image", "HunyuanImageTokenizeStrategy.__init__", "8e6bae0139aa227b"),
        Target("library.hunyuan_image_text_encoder", "load_byt5", "7f5011029bd20d60"),
        Target("library.hunyuan_image_text_encoder", "load_qwen2_5_vl", "77ef25aab47c3db2"),
    ),
    install=install,
    on_by_default=True,
    scripts=("lumina_train_network", "hunyuan_image_train_network"),
)
