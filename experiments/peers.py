"""The programs that ours are timed beside: the same model in PyTorch, from the same weights.

transformers' GPT-2 (SDPA), and nanoGPT's model.py where a checkout of it is given; torch's fused AdamW; on a GPU in
bfloat16 by autocast over float32 weights, as nanoGPT trains.
"""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Int

from converters import save_pretrained
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.optimizer import schedule

Step = Callable[[np.ndarray], Any]
"""An update by a batch of tokens [B, T + 1]; returns the loss in nats per token, a number or a torch scalar."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def device() -> str:
    """Where torch computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def transformers_model(model: GPT) -> transformers.GPT2LMHeadModel:
    """The same weights in transformers."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder) / "model", "gpt2")
        loaded = transformers.GPT2LMHeadModel.from_pretrained(Path(folder) / "model", attn_implementation="sdpa")
    return loaded.to(device())


def transformers_loss(model: GPT) -> tuple[torch.nn.Module, Loss]:
    """Transformers' GPT-2 and its loss."""
    loaded = transformers_model(model).train()

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = loaded(inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return loaded, loss


def nanogpt_loss(model: GPT, checkout: Path) -> tuple[torch.nn.Module, Loss]:
    """NanoGPT's GPT and its loss."""
    loaded = nanogpt_model(model, checkout).train()
    return loaded, lambda inputs, targets: loaded(inputs, targets)[1]


def nanogpt_model(model: GPT, checkout: Path) -> torch.nn.Module:
    """The same weights in nanoGPT's model.py, by our ckpt.pt. Raises UserError where there is no model.py."""
    file = checkout / "model.py"
    if not file.exists():
        raise UserError(f"--nanogpt {checkout} has no model.py; give the folder of a nanoGPT checkout")
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    assert spec is not None, "it is a file of Python"
    assert spec.loader is not None, "it is a file of Python"
    theirs = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = theirs  # torch.compile looks for it there
    spec.loader.exec_module(theirs)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder) / "model", "nanogpt")
        saved = torch.load(Path(folder) / "model" / "ckpt.pt", map_location="cpu", weights_only=True)
    loaded = theirs.GPT(theirs.GPTConfig(**saved["model_args"]))
    loaded.load_state_dict(saved["model"])
    return loaded.to(device())


def train_step(config: TrainConfig, model: torch.nn.Module, loss: Loss, *, compiled: bool, wait: bool = True) -> Step:
    """One update as ours makes it: AdamW, the schedule's rate, clipping. Without `wait`, the loss stays on the GPU."""
    options = config.optimizer
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(options.beta1, options.beta2), fused=True)
    forward, rate, done = torch.compile(loss) if compiled else loss, schedule(options, config.steps), 0

    def update(batch: np.ndarray) -> float:
        nonlocal done
        tokens = torch.from_numpy(batch.astype(np.int64)).to(device())
        for group in optimizer.param_groups:
            group["lr"] = float(rate(done))
        optimizer.zero_grad(set_to_none=True)
        with _narrow(config.model.dtype):
            value = forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        done += 1
        return value.item() if wait else value.detach()

    return update


def greedy(model: GPT, prompt: Int[np.ndarray, "B T"], dtype: str) -> Callable[[int], np.ndarray]:
    """Transformers' `generate` with a static cache, which it compiles on a GPU: from a count of new tokens to all."""
    loaded = transformers_model(model).eval().to(getattr(torch, dtype))
    loaded.generation_config.eos_token_id = None
    loaded.generation_config.pad_token_id = 0
    tokens = torch.from_numpy(prompt.astype(np.int64)).to(device())

    def run(count: int) -> np.ndarray:
        with torch.no_grad():
            found = loaded.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=count,
                do_sample=False,
                cache_implementation="static",
            )
        return found.cpu().numpy()

    return run


def llamacpp_server(model: GPT, stored: str, rows: int = 1) -> Any:
    """llama.cpp's server with the same weights, kept in float32, float16 or q8_0; it decodes so many texts at once."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.n_ctx, params.n_parallel, params.port = rows * model.config.context_length // 2, rows, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder) / "model", "gguf", dtype=stored)
        params.model.path = str(Path(folder) / "model" / "model.gguf")
        return xllamacpp.Server(params)  # which keeps the file open


def llamacpp_greedy(model: GPT, prompt: Int[np.ndarray, " T"], stored: str) -> Callable[[int], object]:
    """llama.cpp, which continues greedily by a count of tokens."""
    server = llamacpp_server(model, stored)

    def run(count: int) -> object:
        request = {"prompt": prompt.tolist(), "max_tokens": count, "temperature": 0, "ignore_eos": True}
        return server.handle_completions(request)

    return run


def product(x: np.ndarray, y: np.ndarray, dtype: str) -> Callable[[], None]:
    """A matrix product that is done when it returns."""
    a, b = (torch.from_numpy(matrix).to(device(), getattr(torch, dtype)) for matrix in (x, y))

    def run() -> None:
        a @ b
        if device() == "cuda":
            torch.cuda.synchronize()

    return run


def peak_gigabytes(program: Callable[[], Any]) -> float | None:
    """What torch held at once on a GPU while a program ran. None: there is no GPU."""
    if device() == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    program()
    return torch.cuda.max_memory_allocated() / 1e9


def _narrow(dtype: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device(), torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()
