"""What `jaxgpt convert` and `jaxgpt verify` do."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from rich.console import Console

from converters.adapt import adapt_weights
from converters.architectures import ARCHITECTURES
from converters.arguments import Convert, Verify
from converters.comparison import comparison
from converters.gpt2_tokenizer import FILES
from converters.hub import is_local, local_path
from converters.load import load_pretrained
from converters.save import save_pretrained
from converters.verification.certify import certify
from converters.verification.verify import verify as certificate_of
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss

Load = Callable[..., GPT]
ReadTokens = Callable[[Path], Int[np.ndarray, " T"]]
LOSS_ROWS = 8


def convert(args: Convert, *, load: Load = load_pretrained, read_tokens: ReadTokens | None = None) -> None:
    """Read, change, write; prints what changed and where the model went.

    `load` reads a source; `read_tokens` makes tokens of a text file for the loss. Raises UserError as
    `load_pretrained`, `adapt_weights` and `save_pretrained` do; nothing is written then.
    """
    console = Console()
    allowed = {"allow_nonfinite": True} if args.allow_nonfinite else {}
    model = load(args.source, **allowed)
    changes: dict[str, Any] = {
        name: value for name in ("num_kv_heads", "position", "window") if (value := getattr(args, name)) is not None
    }
    changed = adapt_weights(model, kv_init=args.kv_init, **changes)
    if changes:
        console.print(comparison(model.config, changed.config))
    if args.data is not None:
        _print_losses(console, model, changed, _tokens(args.data, read_tokens))
    kind = save_pretrained(
        changed,
        args.folder,
        args.architecture,
        args.dtype,
        tokenizer=_tokenizer_folder(args.source),
        origin=_origin(args.source, changes),
        check=certify if args.verify else None,
        **allowed,
    )
    console.print(f"{args.folder} holds a {kind} model{_lacking(args.folder, kind)}", soft_wrap=True)


def verify(args: Verify, *, load: Load = load_pretrained) -> int:
    """Print the certificate; returns the exit code: 0 where every bound holds, 1 where one is exceeded."""
    certificate = certificate_of(args.source, args.against, model=load(args.source, dtype=args.dtype))
    if args.json:
        sys.stdout.write(certificate.to_json() + "\n")
    else:
        Console().print(certificate.to_table())
    return 0 if certificate.holds else 1


def _lacking(folder: Path, kind: str) -> str:
    """The end of the message, where transformers will find no tokenizer."""
    if kind not in ARCHITECTURES or any((folder / name).exists() for name in FILES):
        return ""
    return "; its tokenizer is not GPT-2's and was not found, so that AutoTokenizer will not open the folder"


def _origin(source: str, changes: dict[str, Any]) -> str:
    name = source if not is_local(source) else f"`{Path(source).name}`"
    return name + "".join(f", {field}={value}" for field, value in changes.items())


def _tokenizer_folder(source: str) -> Path | None:
    """Where the source keeps a tokenizer's files, if it has any."""
    path = local_path(source)
    return path if any((path / name).exists() for name in FILES) else None


def _tokens(data: Path, read_tokens: ReadTokens | None) -> Int[np.ndarray, " T"]:
    if read_tokens is None:
        raise UserError("data needs a tokenizer: call convert with read_tokens")
    return read_tokens(data)


def _print_losses(console: Console, before: GPT, after: GPT, tokens: Int[np.ndarray, " T"]) -> None:
    """The mean loss of both over the first rows of the text."""
    length = min(before.config.context_length, after.config.context_length)
    rows = min(LOSS_ROWS, len(tokens) // length)
    if rows == 0:
        raise UserError(f"the text has {len(tokens)} tokens, fewer than one context of {length}; give a longer one")
    batch = jnp.asarray(tokens[: rows * length].reshape(rows, length).astype(np.int32))
    losses = [float(jax.jit(next_token_loss)(model, batch)) for model in (before, after)]
    console.print(
        f"loss on {batch.size:,} tokens: {losses[0]:.3f} before, {losses[1]:.3f} after (nats per token)", soft_wrap=True
    )
