"""Do the programs of llm.c and nanoGPT compute, from the files that we write for them, what we compute?

    python -m experiments.peers_open --llmc CHECKOUT --nanogpt CHECKOUT

The judges are theirs. llm.c's test_gpt2.c is compiled with gcc; only its ten hard-coded losses, those of OpenAI's
weights, are replaced by ours. It compares the logits, every gradient tensor and ten updates by AdamW. nanoGPT's
model.py opens our ckpt.pt with biases, without, and from grouped heads. Weights are random, so that no bias is zero.
"""

import dataclasses
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from converters import save_pretrained
from converters.adapt import model_from_parameters
from converters.formats.llmc import HEADER, write_llmc
from experiments import evidence
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss

MODEL = GPTConfig(vocab_size=50257, context_length=128, num_layers=4, num_heads=6, d_model=192)
COMMAND = "python -m experiments.peers_open --llmc CHECKOUT --nanogpt CHECKOUT"
ROWS, LENGTH, UPDATES = 4, 64, 10
DEBUG_STATE = (20240327, 2)
"""The first numbers of llm.c's debug state: magic and version."""
NANOGPT_CASES: dict[str, dict[str, Any]] = {
    "with biases": {},
    "without biases": {"bias": False},
    "from grouped heads": {"num_kv_heads": 2},
}
BOUNDS = {"logits": 1e-4, "gradients": 1e-5, "losses": 1e-4}
"""Largest differences that count as equal in float32; llm.c's own bounds are 1e-2 and 2e-2."""


def main(llmc: Path | None = None, nanogpt: Path | None = None, results: Path = evidence.RESULTS) -> dict[str, Any]:
    """Ask the judges, and save what they say.

    Args:
        llmc: A checkout of llm.c.
        nanogpt: A checkout of nanoGPT.
        results: Where the result goes.
    """
    if llmc is None and nanogpt is None:
        raise UserError("there is no judge: give --llmc CHECKOUT, --nanogpt CHECKOUT, or both")
    result: dict[str, Any] = {"environment": evidence.environment(COMMAND, "torch")}
    with jax.default_matmul_precision("highest"):
        if llmc is not None:
            result["llm.c"] = {"commit": commit(llmc), **ask_llmc(llmc)}
        if nanogpt is not None:
            cases = {name: ask_nanogpt(nanogpt, changes) for name, changes in NANOGPT_CASES.items()}
            result["nanoGPT"] = {"commit": commit(nanogpt), "largest_logit_difference": cases}
    print(evidence.rounded(result, 3))
    evidence.write("peers-open", result, results)
    return result


def ask_llmc(checkout: Path) -> dict[str, Any]:
    """What llm.c's test says of our model.bin. Raises UserError where it is not llm.c, or fails."""
    if not (checkout / "test_gpt2.c").exists():
        raise UserError(f"--llmc {checkout} has no test_gpt2.c; give the folder of a checkout of llm.c")
    model, tokens = random_model(MODEL), random_tokens()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_pretrained(model, folder / "model", "llm.c")
        (folder / "model" / "model.bin").rename(folder / "gpt2_124M.bin")
        write_debug_state(model, tokens, folder / "gpt2_124M_debug_state.bin")
        losses = train(model, tokens)
        (folder / "test.c").write_text(with_losses((checkout / "test_gpt2.c").read_text(), losses))
        flags = ("-O3", "-fopenmp", "-DOMP", f"-I{checkout.absolute()}")
        subprocess.run(["gcc", *flags, "test.c", "-lm", "-o", "test"], cwd=folder, check=True)
        threads = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())}
        said = subprocess.run(["./test"], cwd=folder, env=threads, capture_output=True, text=True, check=True).stdout
    found = read_verdict(said, losses)
    if not found["passed"] or any(found[f"largest_{name}_difference"] > bound for name, bound in BOUNDS.items()):
        raise UserError(f"llm.c computes something else from what we wrote: {found}\n{said}")
    return found


def read_verdict(said: str, losses: list[float]) -> dict[str, Any]:
    """The numbers of what llm.c's test prints."""
    logits = re.search(r"\(LOGITS\), max_diff = (\S+)", said)
    gradients = re.findall(r"^(d\w+)\n(?:.*\n)*?TENSOR .*maxdiff = (\S+)", said, re.MULTILINE)
    theirs = [float(loss) for loss in re.findall(r"^step \d+: loss (\S+)", said, re.MULTILINE)]
    assert logits, said
    assert len(theirs) == UPDATES, said
    return {
        "passed": "overall okay: 1" in said,
        "largest_logits_difference": float(logits[1]),
        "gradient_tensors": len(gradients),
        "largest_gradients_difference": max(float(found) for _, found in gradients),
        "updates": UPDATES,
        "largest_losses_difference": max(abs(a - b) for a, b in zip(theirs, losses, strict=True)),
        "losses": theirs,
    }


def with_losses(source: str, losses: list[float]) -> str:
    """The test with other expected losses."""
    ours = ", ".join(f"{loss:.9g}f" for loss in losses)
    changed, count = re.subn(r"(float expected_losses\[10\] = \{)[^}]*\}", rf"\g<1>{ours}}}", source)
    if count != 1:
        raise UserError("test_gpt2.c has no table expected_losses[10]: this is another version of llm.c")
    return changed


def write_debug_state(model: GPT, tokens: np.ndarray, path: Path) -> None:
    """Llm.c's debug state: tokens, targets, logits, loss and gradients, the latter laid out as the weights are."""
    loss, gradients = jax.jit(jax.value_and_grad(next_token_loss))(model, jnp.asarray(tokens))
    header = np.zeros(HEADER, "<i4")
    header[:4] = (*DEBUG_STATE, ROWS, LENGTH)
    write_llmc(gradients, path, np.dtype(np.float32))
    laid_out = path.read_bytes()[4 * HEADER :]
    logits = np.asarray(jax.jit(GPT.__call__)(model, jnp.asarray(tokens[:, :-1])), "<f4")
    inputs, targets = tokens[:, :-1].astype("<i4"), tokens[:, 1:].astype("<i4")
    parts = (header, inputs, targets, logits, np.asarray(loss, "<f4"))
    path.write_bytes(b"".join(part.tobytes() for part in parts) + laid_out)


def train(model: GPT, tokens: np.ndarray) -> list[float]:
    """The losses before each of ten updates, made as llm.c makes them: AdamW, decay on every parameter."""
    optimizer = optax.adamw(1e-4, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.01)

    @jax.jit
    def step(model: GPT, state: optax.OptState) -> tuple[GPT, optax.OptState, jax.Array]:
        loss, gradients = jax.value_and_grad(next_token_loss)(model, jnp.asarray(tokens))
        updates, state = optimizer.update(gradients, state, model)
        return optax.apply_updates(model, updates), state, loss

    state, losses = optimizer.init(model), []
    for _ in range(UPDATES):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    return losses


def ask_nanogpt(checkout: Path, changes: dict[str, Any]) -> float:
    """The largest difference of a logit between nanoGPT's model.py and ours. Raises UserError above the bound."""
    import torch

    from experiments import peers

    model, tokens = random_model(dataclasses.replace(MODEL, activation="gelu", **changes)), random_tokens()[:, :-1]
    theirs = peers.nanogpt_model(model, checkout).eval()
    with torch.no_grad():
        given = torch.from_numpy(tokens.astype(np.int64)).to(peers.device())
        logits = theirs(given, given)[0].cpu().numpy()  # without targets it gives those of the last token alone
    difference = float(np.abs(logits - np.asarray(jax.jit(GPT.__call__)(model, jnp.asarray(tokens)))).max())
    if difference > BOUNDS["logits"]:
        raise UserError(f"nanoGPT computes other logits from what we wrote ({changes}): {difference:.1e} apart")
    return difference


def random_model(config: GPTConfig) -> GPT:
    """Weights at random, biases and scales as well; the padding rows of the table are zero."""
    rng = np.random.default_rng(0)

    def parameter(name: str, like: jax.ShapeDtypeStruct) -> jax.Array:
        array = 0.06 * rng.normal(size=like.shape) + name.endswith("scale")
        if name == "embed":
            array[config.vocab_size :] = 0
        return jnp.asarray(array, jnp.float32)

    return model_from_parameters(config, parameter)


def random_tokens() -> np.ndarray:
    """The batch that is compared on: inputs and, one later, targets."""
    return np.random.default_rng(1).integers(0, MODEL.vocab_size, (ROWS, LENGTH + 1)).astype(np.int32)


def commit(checkout: Path) -> str | None:
    """Which version of a program it is; None where the folder is not under git."""
    done = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    tyro.cli(main)
