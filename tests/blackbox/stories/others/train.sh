#!/bin/sh
export CUDA_VISIBLE_DEVICES=0
accelerate launch --num_cpu_threads_per_process 1 --mixed_precision=bf16 --gpu_ids 0,1 --multi_gpu --dynamo_mode x \
  "./sd-scripts/flux_train_network.py" --pretrained_model_name_or_path "a b.safetensors" \
  --network_args loraplus_lr_ratio=16 "x=a b" --optimizer_args weight_decay=0.1 \
  --text_encoder_lr 1e-5 2e-5 --cache_latents --learning=3 --max_train_steps 5 --max_train_steps 6 && echo done
