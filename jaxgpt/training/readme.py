"""README.txt of a run folder: what lies in it, and what to type."""

import shlex

from jaxgpt.training.run import Run, resume_command

TEXT = """\
A training run of jaxgpt: {steps:,} steps of {rows} x {length} tokens on {source}.

config.json    every setting of the run, its tokenizer, and the versions that it began with
metrics.jsonl  a line for each report: step, loss (nats per token), val_loss, tokens_per_second, learning_rate, ...
events...      the same for TensorBoard: tensorboard --logdir {folder}
loss.png       the loss over the steps, in training and on the text held back
checkpoints/   STEP/: the weights and the optimizer's state; the newest ones and the best
samples/       STEP.txt: a text by the trained model

Go on with it (more steps by --steps N):
    {resume}
Generate text:
    jaxgpt generate {folder} --prompt "..."
Evaluate it on the text held back:
    jaxgpt evaluate {folder}
Convert it into a folder that Hugging Face transformers opens:
    jaxgpt convert {folder} CONVERTED
In Python:
    model, tokenizer = jaxgpt.load({path!r}), jaxgpt.load_tokenizer({path!r})

Nothing outside of this folder is needed but the text: it may be moved, and then has another name above.
"""


def write_readme(run: Run) -> None:
    """Write README.txt."""
    config = run.config
    text = TEXT.format(
        steps=config.steps,
        rows=config.batch_size,
        length=config.model.context_length,
        source=run.from_python.get("data") or " + ".join(config.data.mixture) or config.data.source,
        folder=shlex.quote(str(run.folder)),
        path=str(run.folder),
        resume=resume_command(run.folder),
    )
    (run.folder / "README.txt").write_text(text, encoding="utf-8")
