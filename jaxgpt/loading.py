"""One door to every model: a run folder, a Hugging Face folder or hub id, a weights file."""

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
    """The tokenizer a source was trained with; GPT-2's, where the source is not a run of ours."""
    return read_run(Path(source)).tokenizer if is_run(Path(source)) else GPT2Tokenizer()
