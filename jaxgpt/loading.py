"""One door to every model: a run folder, a Hugging Face folder or hub id, a weights file."""

import sys
from pathlib import Path
from typing import Any

from jaxgpt.config import Backend, GPTConfig
from jaxgpt.data import GPT2Tokenizer, Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.run import is_run, read_run, resume_command


def load(source: str | Path, **config_changes: Any) -> GPT:
    """The model at a source: a run folder (its newest checkpoint), an HF folder, a weights file, or a hub id.

    Raises UserError where there is none, or a change of config needs weights that the source does not have.
    """
    if not is_run(Path(source)):
        from converters import load_pretrained

        return load_pretrained(str(source), **config_changes)
    run = read_run(Path(source))
    with Checkpoints(run.checkpoints) as checkpoints:
        if checkpoints.latest is None:
            raise UserError(f"{source} has no checkpoint yet; train it first: {resume_command(run.folder)}")
        model = checkpoints.restore_model(run.config.model, checkpoints.latest)
    return adapt_weights(model, GPTConfig.from_dict(model.config.to_dict() | config_changes))


def adapt_weights(model: GPT, config: GPTConfig) -> GPT:
    """The model under another config, its weights made to fit. Raises UserError where they cannot be."""
    from converters.adapt import adapt_weights

    before, after = model.config.to_dict(), config.to_dict()
    return adapt_weights(model, **{name: value for name, value in after.items() if value != before[name]})


def load_with_backend(source: str | Path, attention: Backend | None) -> GPT:
    """The model of a source with the attention backend of that name, where there is one; else with its own."""
    return load(source) if attention is None else load(source, attention=attention)


def load_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer of a source: a run's own, or what lies in the folder, beside the weights file or on the hub.

    GPT-2's where the files are GPT-2's, or where there are none and the model has exactly its vocabulary; the latter is
    said on stderr. Raises UserError where the source has no tokenizer, or one that cannot be read.
    """
    from converters.hub import local_path
    from jaxgpt.data.tokenizer_files import read_tokenizer

    if is_run(Path(source)):
        return read_run(Path(source)).tokenizer
    path = local_path(source)
    return read_tokenizer(path) or _nanogpt_characters(path) or _gpt2_by_vocabulary(path)


def check_vocabulary(tokenizer: Tokenizer, config: GPTConfig, source: str | Path) -> None:
    """Raise UserError where a text may hold tokens that the model does not know. Rows past the tokenizer's are fine."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the {tokenizer.name} tokenizer has {tokenizer.vocab_size} tokens and {source} {config.vocab_size}: "
            "it is another model's; name the right one by --tokenizer"
        )


def _nanogpt_characters(path: Path) -> Tokenizer | None:
    """The characters of a ckpt.pt: data/DATASET/meta.pkl beside its folder, where nanoGPT's own sample.py looks."""
    file = path / "ckpt.pt" if path.is_dir() else path
    if file.suffix != ".pt" or not file.is_file():
        return None
    from converters.formats.torch_files import unpickled
    from jaxgpt.data.tokenizer_files import META, read_tokenizer

    checkpoint = unpickled(file)
    settings = checkpoint.get("config") if isinstance(checkpoint, dict) else None
    dataset = settings.get("dataset") if isinstance(settings, dict) else None
    if not isinstance(dataset, str) or Path(dataset).name != dataset:
        return None
    meta = file.absolute().parent.parent / "data" / dataset / META
    return read_tokenizer(meta) if meta.is_file() else None


def _gpt2_by_vocabulary(path: Path) -> Tokenizer:
    from converters.sources import read_source

    size = read_source(path).config.vocab_size
    if size != GPT2Tokenizer.vocab_size:
        raise UserError(
            f"{path} has no tokenizer (no tokenizer.json, vocab.json with merges.txt, or meta.pkl), and its vocabulary "
            f"of {size} is not GPT-2's: put the file there, or name a source that has it by --tokenizer"
        )
    sys.stderr.write(f"{path} has no tokenizer; it has GPT-2's number of tokens, so GPT-2's is used\n")
    return GPT2Tokenizer()
