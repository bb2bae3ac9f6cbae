"""The same model in transformers, computed in float64: what ours is compared with."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from converters.gpt2_tokenizer import FILES
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
        config = transformers.AutoConfig.from_pretrained(folder)
        if getattr(config, "reorder_and_upcast_attn", False):
            config.reorder_and_upcast_attn = False  # the same function; its float32 would be in the way of float64
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float64, attn_implementation="eager"
        ).eval()
        self.folder = folder
        self.versions = f"transformers {transformers.__version__}, torch {torch.__version__}"

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
        if not any((self.folder / name).exists() for name in FILES):
            return None
        import transformers

        return np.array([transformers.AutoTokenizer.from_pretrained(self.folder)(text)["input_ids"]])
