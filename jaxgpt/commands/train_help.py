"""What `jaxgpt train --help` prints: the flags that most runs need, on one screen."""

from jaxgpt.training.presets import PRESETS

SHORT = """\
usage: jaxgpt train [PRESET] [FLAGS]                    every flag: --help-all

preset  quickstart (the default)   a small GPT on Python's own text: no network
        shakespeare-char-cpu, shakespeare-char   nanoGPT's examples: CPU, GPU
        gpt2, gpt2-medium, gpt2-large, gpt2-xl   from scratch on --data.source
        gpt2-fineweb10B, tiny      llm.c's run on one GPU; a second's work
run     --run FOLDER               the folder to make (runs/PRESET-DATE-TIME)
        --resume FOLDER            go on with a run, from its newest checkpoint
        --dry-run                  what a step and the run would cost
        --config FILE              settings in a file, as of --print-config
text    --data.source TEXT         stdlib, shakespeare, a file, folder or shards
        --data.tokenizer WHAT      gpt2, char, bpe-2048, or a folder
model   --init SOURCE              start from weights: GPT-2, a run, a file
        --model.num-layers N       also --model.num-heads N, --model.d-model N
        --model.position rotary    or --model.num-kv-heads N, --model.window N
steps   --steps N                  also --batch-size N, --microbatches N
        --optimizer.learning-rate X   also --optimizer.warmup-steps N
        --eval-every N             steps between validations, which also save
        --model.dtype bfloat16     compute in 16 bits, on a GPU
devices --mesh.fsdp N              shard over N devices; --mesh.data N copies
        --distributed              this is one of several processes
watch   --trackers LIST            of tensorboard, csv, wandb; --profile 10:20
"""


def description() -> str:
    """What --help-all says above the flags."""
    presets = "\n\n".join(
        f"{name}: {preset.purpose} ({preset.config.model.num_layers} layers, width {preset.config.model.d_model})"
        for name, preset in PRESETS.items()
    )
    return f"Train a GPT. Without arguments: the quickstart preset.\n\nPRESETS\n\n{presets}"
