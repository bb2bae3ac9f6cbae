"""The training runs with a name."""

import dataclasses

from jaxgpt.config import GPTConfig
from jaxgpt.training.config import DataConfig, OptimizerConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """A training run with a name, and what it is for."""

    purpose: str
    config: TrainConfig


def _gpt2(name: str, learning_rate: float, microbatches: int) -> TrainConfig:
    """OpenAI's size, trained as nanoGPT does: 0.5M tokens per update, 600k updates (GPT-3 paper's learning rates)."""
    return TrainConfig(
        model=GPTConfig.preset(name, dtype="bfloat16"),
        data=DataConfig(source=None),
        optimizer=OptimizerConfig(learning_rate, learning_rate / 10, warmup_steps=2000),
        steps=600_000,
        batch_size=480,
        microbatches=microbatches,
        eval_every=1000,
        eval_batches=4,
    )


PRESETS: dict[str, Preset] = {
    "quickstart": Preset(
        "a small GPT on Python's own source and documentation; a minute and a half on two CPU cores, no network",
        TrainConfig(
            model=GPTConfig.preset("quickstart"),
            data=DataConfig(tokenizer="bpe-2048"),
            optimizer=OptimizerConfig(1.6e-2, 0.0, warmup_steps=30, name="muon", schedule="linear"),
            steps=500,
            batch_size=8,
            eval_every=100,
            eval_batches=8,
            sample_tokens=256,
            sample_prompt="import os\n\nclass",
        ),
    ),
    "shakespeare-char-cpu": Preset(
        "nanoGPT's CPU example, by Muon in batches of 16: Shakespeare by characters, validation loss 1.55",
        TrainConfig(
            model=GPTConfig.preset("shakespeare-char-cpu"),
            data=DataConfig("shakespeare", "char"),
            optimizer=OptimizerConfig(8e-3, 0.0, warmup_steps=100, name="muon", schedule="linear"),
            steps=2000,
            batch_size=16,
            log_every=50,
            eval_every=500,
            eval_batches=200,
            sample_tokens=500,
        ),
    ),
    "shakespeare-char": Preset(
        "nanoGPT's GPU example: Shakespeare by characters, validation loss 1.47",
        TrainConfig(
            model=GPTConfig.preset("shakespeare-char"),
            data=DataConfig("shakespeare", "char"),
            optimizer=OptimizerConfig(1e-3, 1e-4, warmup_steps=100, beta2=0.99),
            steps=5000,
            batch_size=64,
            eval_batches=100,
            sample_tokens=500,
        ),
    ),
    "gpt2": Preset(
        "GPT-2 124M from scratch; name its data by --data.source. A GPU with 40 GB", _gpt2("gpt2", 6e-4, 15)
    ),
    "gpt2-medium": Preset("GPT-2 355M", _gpt2("gpt2-medium", 3e-4, 30)),
    "gpt2-large": Preset("GPT-2 774M", _gpt2("gpt2-large", 2.5e-4, 60)),
    "gpt2-xl": Preset("GPT-2 1.5B", _gpt2("gpt2-xl", 2e-4, 120)),
    "gpt2-fineweb10B": Preset(
        "GPT-2 124M on FineWeb-10B as llm.c trains it, to its validation loss of 3.28; name the data by --data.source. "
        "A GPU with 80 GB, or eight with --microbatches 1",
        TrainConfig(
            model=GPTConfig.preset("gpt2", dtype="bfloat16"),
            data=DataConfig(source=None),
            optimizer=OptimizerConfig(6e-4, 0.0, warmup_steps=700),
            steps=19_560,  # of 524,288 tokens: the 103 shards once
            batch_size=512,
            microbatches=8,
            eval_every=250,
        ),
    ),
    "tiny": Preset(
        "a second's work, for tests and first steps",
        TrainConfig(
            model=GPTConfig.preset("tiny", vocab_size=65),
            data=DataConfig("shakespeare", "char"),
            optimizer=OptimizerConfig(3e-3, 3e-4, warmup_steps=5),
            steps=40,
            batch_size=8,
            log_every=1,
            eval_every=10,
            eval_batches=2,
            sample_tokens=16,
        ),
    ),
}
"""The training runs with a name: `jaxgpt train NAME`, `jaxgpt.train(NAME)`."""
