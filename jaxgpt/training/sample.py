"""A text by the model, at the end of a run and before its first step."""

import re
from typing import Any

from rich.console import Console

from jaxgpt.inference.generate import generate
from jaxgpt.model.gpt import GPT
from jaxgpt.runtime.processes import is_main_process
from jaxgpt.training.run import Run

TEMPERATURE, TOP_P = 0.8, 0.95
"""Of the sample: small models draw a wrong token now and then from the unlikely ones, and do not recover."""


def write_sample(run: Run, model: GPT, console: Console, title: str = "sample", step: int | None = None) -> None:
    """Write a sample of the model after a step, by default the last, into the run folder, and show it."""
    end = run.tokenizer.end_of_text
    prompt = run.tokenizer.encode(run.config.sample_prompt or ("\n" if end is None else "")).tolist()
    prompt = prompt if end is None else [end, *prompt]
    count, seed = run.config.sample_tokens, run.config.seed
    how: dict[str, Any] = {"temperature": TEMPERATURE, "top_p": TOP_P, "seed": seed, "stop_token": end}
    tokens = generate(model, [prompt], count, **how, slide=True)
    text = run.tokenizer.decode(token for token in tokens[0] if token != end)
    step = run.config.steps if step is None else step
    if is_main_process():
        try:
            (run.folder / "samples").mkdir(exist_ok=True)
            (run.folder / "samples" / f"{step}.txt").write_text(text, encoding="utf-8")
        except OSError as error:  # the run is whole without it
            console.print(f"the sample cannot be written ({error})", soft_wrap=True)
    console.rule(title)
    console.print(folded(text), soft_wrap=True)
    console.rule()


def folded(text: str) -> str:
    r"""The text as a page shows it: a tab is four spaces, no blanks at the ends of lines, one empty line at most.

    >>> folded("def f(x):  \n\treturn x\n\n\n\n")
    'def f(x):\n    return x'
    """
    text = re.sub(r"[ \t]+$", "", text.expandtabs(4), flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")
