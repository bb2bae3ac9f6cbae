"""The same model in transformers, computed in float64: what ours is compared with."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError

from converters.companions import tokenizer_files
from jaxgpt.errors import UserError

Tokens = Int[np.ndarray, "B T"]


class Oracle:
    """AutoModelForCausalLM from a folder, in float64."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError without torch and transformers."""
        if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
            raise UserError(f"a verification needs {' and '.join(missing)}: pip install {' '.join(missing)}")
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        config = _opened(folder, transformers.AutoConfig.from_pretrained)
        if getattr(config, "reorder_and_upcast_attn", False):
            config.reorder_and_upcast_attn = False  # the same function; its float32 would be in the way of float64
        options = {"config": config, "dtype": torch.float64, "attn_implementation": "eager"}
        self.model = _opened(folder, transformers.AutoModelForCausalLM.from_pretrained, **options).eval()
        self.folder = folder
        self.versions = f"transformers {transformers.__version__}, torch {torch.__version__}"

    @property
    def query_scale(self) -> float:
        """What our queries are multiplied with, where theirs are not divided by the root of the head size."""
        config = self.model.config
        unscaled = getattr(config, "scale_attn_weights", True) is False
        return float(config.hidden_size // config.num_attention_heads) ** 0.5 if unscaled else 1.0

    def outputs(self, tokens: Tokens) -> tuple[Float[np.ndarray, "B T V"], list[Float[np.ndarray, "B T D"]]]:
        """The logits, and what enters each layer; last, what the head reads."""
        import torch

        with torch.no_grad():
            out = self.model(torch.from_numpy(tokens.astype(np.int64)), use_cache=False, output_hidden_states=True)
        return out.logits.numpy(), [hidden.numpy() for hidden in out.hidden_states]

    def gradients(self, tokens: Tokens) -> dict[str, np.ndarray]:
        """The gradient of the mean next-token loss by each parameter."""
        import torch

        inputs = torch.from_numpy(tokens.astype(np.int64))
        logits = self.model(inputs, use_cache=False).logits[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, inputs[:, 1:].flatten()).backward()
        found = {name: weight.grad.numpy() for name, weight in self.model.named_parameters()}
        self.model.zero_grad(set_to_none=True)
        return found

    def greedy(self, prompt: Tokens, count: int) -> Tokens:
        """The greedy continuation, prompt included."""
        import torch

        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(prompt.astype(np.int64))}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        return self.model.generate(**inputs, max_new_tokens=count, **options).numpy()

    def encode(self, text: str) -> Tokens | None:
        """The text as one row of tokens, where the folder has a tokenizer."""
        if not tokenizer_files(self.folder):
            return None
        import transformers

        return np.array([transformers.AutoTokenizer.from_pretrained(self.folder)(text)["input_ids"]])


def _opened(folder: Path, load: Callable[..., Any], **options: Any) -> Any:
    """What transformers loads from a folder. Raises UserError where it does not open it."""
    try:
        return load(folder, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"transformers does not open {folder}: {lines[0]}") from error
