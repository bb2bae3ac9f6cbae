"""Fine-tune the GPT-2 in a Hugging Face folder on a text, and stop when validation gets worse."""

import sys

import jaxgpt
from jaxgpt.data import prepare


class StopEarly:
    """Stops after `patience` validations without a better one."""

    def __init__(self, patience: int = 2) -> None:
        self.patience, self.best, self.worse = patience, float("inf"), 0

    def __call__(self, step, metrics, state, trainer) -> str | None:
        if "val_loss" not in metrics:
            return None
        self.worse = 0 if metrics["val_loss"] < self.best else self.worse + 1
        self.best = min(self.best, metrics["val_loss"])
        return "stop" if self.worse >= self.patience else None


def main(source: str, text: str, folder: str, steps: int = 500, **changes) -> float:
    stop = StopEarly()
    settings = {
        "learning_rate": 3e-5,
        "final_learning_rate": 3e-6,
        "batch_size": 8,
        "microbatches": 1,
        "eval_every": 25,
    } | changes
    data, model = prepare(text, jaxgpt.load_tokenizer(source)), jaxgpt.load(source)
    jaxgpt.train("gpt2", data=data, model=model, folder=folder, callbacks=[stop], steps=steps, **settings)
    best = jaxgpt.load(folder, step="best")
    jaxgpt.save(best, f"{folder}/best", tokenizer=jaxgpt.load_tokenizer(folder))
    return stop.best


if __name__ == "__main__":
    main(*sys.argv[1:4])
