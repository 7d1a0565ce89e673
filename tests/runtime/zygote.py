"""A process that has imported torch and upstream once, and forks for each training: seconds instead of ten each.

One JSON request a line on stdin: `argv` for the bootstrap, `env`, `cwd`, `log`. One line of answer: the child's pid,
then, when it has ended, its exit code. Each child runs the same bootstrap as a real training does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import threading

HEAVY = """torch torchvision cv2 accelerate transformers diffusers diffusers.models.autoencoders.autoencoder_kl
transformers.models.clip.modeling_clip library.config_util library.dataset library.train_util library.strategy_sd
library.original_unet library.sampling library.loss library.checkpoint_io library.optimizer networks.lora ftfy
diffusers.pipelines.stable_diffusion diffusers.models.unets.unet_2d_condition library.model_io bitsandbytes"""


def main() -> None:
    # the bootstrap gives the first place to the script's folder
    sys.path.insert(1, sys.argv[1])
    for name in HEAVY.split():
        importlib.import_module(name)
    # upstream collects garbage more than once, and all of this is none
    gc.freeze()
    say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(request)
            return
        say({"pid": pid})
        threading.Thread(target=reap, args=(pid,), daemon=True).start()


def say(answer: dict[str, object]) -> None:
    os.write(1, (json.dumps(answer) + "\n").encode())


def reap(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def become(request: dict[str, object]) -> None:
    from lora_training.runtime import bootstrap

    os.setsid()
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["env"])
    os.chdir(str(request["cwd"]))
    if "WORLD_SIZE" in os.environ:
        prepare_frozen_models_as_on_gpus()
    if "FP16_ON_CPU" in os.environ:
        train_at_fp16_on_the_cpu()
    sys.exit(bootstrap.main(request["argv"]))


def prepare_frozen_models_as_on_gpus() -> None:
    """On GPUs accelerate leaves a model that does not train as it is; on CPUs it fails on one."""
    from accelerate import Accelerator

    original = Accelerator.prepare_model

    def prepare_model(self: Accelerator, model: object, **more: object) -> object:
        trains = any(each.requires_grad for each in model.parameters())
        return original(self, model, **more | {"evaluation_mode": not trains})

    Accelerator.prepare_model = prepare_model


def train_at_fp16_on_the_cpu() -> None:
    """Accelerate refuses fp16 without a GPU; PyTorch itself has autocast and a scaler for the CPU as well."""
    import torch
    from accelerate import Accelerator

    original = Accelerator.__init__

    def init(self: Accelerator, *, mixed_precision: str, **more: object) -> None:
        original(self, mixed_precision="no", **more)
        self.state._mixed_precision = mixed_precision
        self.native_amp = True
        self.scaler = torch.amp.GradScaler("cpu", **(self.scaler_handler.to_kwargs() if self.scaler_handler else {}))

    Accelerator.__init__ = init


if __name__ == "__main__":
    main()
