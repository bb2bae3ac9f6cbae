"""A text by the model, at the end of a run and before its first step."""

from rich.console import Console

from jaxgpt.inference.generate import generate
from jaxgpt.model.gpt import GPT
from jaxgpt.runtime.processes import is_main_process
from jaxgpt.training.run import Run


def write_sample(run: Run, model: GPT, console: Console, title: str = "sample", step: int | None = None) -> None:
    """Write a sample of the model after a step, by default the last, into the run folder, and show it."""
    end = run.tokenizer.end_of_text
    given = run.config.sample_prompt
    prompt = [end] if end is not None and given is None else run.tokenizer.encode(given or "\n").tolist()
    count, seed = run.config.sample_tokens, run.config.seed
    tokens = generate(model, [prompt], count, temperature=0.8, seed=seed, stop_token=end, slide=True)
    text = run.tokenizer.decode(token for token in tokens[0] if token != end)
    step = run.config.steps if step is None else step
    if is_main_process():
        try:
            (run.folder / "samples").mkdir(exist_ok=True)
            (run.folder / "samples" / f"{step}.txt").write_text(text, encoding="utf-8")
        except OSError as error:  # the run is whole without it
            console.print(f"the sample cannot be written ({error})", soft_wrap=True)
    console.rule(title)
    console.print(text, soft_wrap=True)
    console.rule()
