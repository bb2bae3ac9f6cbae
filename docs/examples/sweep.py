"""A sweep over learning rates, and its curves as a picture."""

import sys

import matplotlib.pyplot as plt

import jaxgpt

RATES = (1e-3, 3e-3, 1e-2)


def main(steps: int = 200, text: str = "shakespeare", folder: str = "runs/sweep", rates: tuple = RATES) -> float:
    figure, axes = plt.subplots()
    last = {}
    for rate in rates:
        result = jaxgpt.train(
            "tiny",
            data=text,
            folder=f"{folder}/{rate}",
            steps=steps,
            learning_rate=rate,
            final_learning_rate=rate / 10,
            eval_every=max(1, steps // 10),
            quiet=True,
        )
        lines = [line for line in result.history if "val_loss" in line]
        axes.plot([line["step"] for line in lines], [line["val_loss"] for line in lines], label=f"{rate:g}")
        last[rate] = lines[-1]["val_loss"]
    axes.set(xlabel="step", ylabel="validation loss (nats per token)")
    axes.legend(title="learning rate")
    figure.savefig(f"{folder}/curves.png")
    print(f"best learning rate: {min(last, key=last.get)}")
    return min(last.values())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:4])
