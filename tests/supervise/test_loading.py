"""The stages before the first step, read from upstream's log lines."""

from __future__ import annotations

from lora_training.supervise.figures import Loading

LOG = """\
2026-11-21 22:25:24 INFO     load tokenizer from cache: /cache/openai_clip-vit-large-patch14   strategy_base.py:59
                    INFO     prepare images.                                             dreambooth_dataset.py:274
read caption:   0%|          | 0/400 [00:00<?, ?it/s]
read caption:  12%|#         | 50/400 [00:00<?, ?it/s]
read caption:  50%|#####     | 200/400 [00:00<?, ?it/s]
read caption: 100%|##########| 400/400 [00:00<00:00, 1165.89it/s]
                    INFO     loading model for process 0/1                                         model_io.py:407
                    INFO     load Diffusers pretrained models: /m                                  model_io.py:367
                    INFO     caching latents...                                                     dataset.py:802
  0%|          | 0/4 [00:00<?, ?it/s]
 50%|#####     | 2/4 [00:00<?, ?it/s]
prepare optimizer, data loader etc.
running training
steps:  25%|##        | 5/20 [00:00<00:10,  1.74it/s]"""


def test_the_stages_and_their_quarters_are_told_and_the_steps_are_left_to_the_figures() -> None:
    loading = Loading()
    assert [loading.words() for line in LOG.splitlines() if loading.take(line)] == [
        "reading images and captions",
        "reading images and captions: 200 of 400",
        "loading the model",
        "caching latents",
        "caching latents: 2 of 4",
        "preparing the optimizer",
        "starting",
    ]


def test_every_line_of_a_bar_counts_for_the_live_line() -> None:
    loading = Loading()
    for line in LOG.splitlines()[:4]:
        loading.take(line)
    assert loading.words() == "reading images and captions: 50 of 400"
