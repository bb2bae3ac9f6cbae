"""What `jaxgpt convert` and `jaxgpt verify` do."""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from rich.console import Console

from converters.adapt import adapt_weights
from converters.arguments import Convert, Verify
from converters.companions import left_behind, tokenizer_files
from converters.comparison import comparison
from converters.export import select_architecture
from converters.formats.tensorflow_bundle import HPARAMS
from converters.hub import check_push, is_local, local_path, push
from converters.load import load_pretrained
from converters.lora import base_of, is_adapter
from converters.model_card import name_on_card
from converters.save import parse_bytes, planned_files, save_pretrained
from converters.sources import CONFIG
from converters.verification.certify import certify
from converters.verification.verify import verify as certificate_of
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss

Load = Callable[..., GPT]
ReadTokens = Callable[[Path], Int[np.ndarray, " T"]]
WriteTokenizer = Callable[[str, Path, int], bool]
LOSS_ROWS = 8
OPENED_BY_TRANSFORMERS = ("gpt2", "gpt_bigcode", "starcoder2")


def convert(
    args: Convert,
    *,
    load: Load = load_pretrained,
    read_tokens: ReadTokens | None = None,
    write_tokenizer: WriteTokenizer | None = None,
) -> None:
    """Read, change, write; prints what changed and where the model went.

    `load` reads a source; `read_tokens` makes tokens of a text file for the loss; `write_tokenizer` writes the files of
    a tokenizer that the source has in another form than files, and says whether there is one. Raises UserError as
    `load_pretrained`, `adapt_weights` and `save_pretrained` do; nothing is written then.
    """
    if args.verify and args.architecture == "gguf":
        raise UserError(
            f"--verify compares folders of transformers: convert without it, then jaxgpt verify {args.folder}"
        )
    if args.push_to is not None:
        check_push(args.push_to)
    console = Console(markup=False, highlight=False)
    model = load(args.source, **_options(args))
    changes: dict[str, Any] = {
        name: value
        for name in ("num_kv_heads", "position", "window", "activation")
        if (value := getattr(args, name)) is not None
    }
    changed = adapt_weights(model, kv_init=args.kv_init, **changes)
    if changes:
        console.print(comparison(model.config, changed.config))
    if args.data is not None:
        _print_losses(console, model, changed, _tokens(args.data, read_tokens))
    if args.dry_run:
        return _print_plan(console, args, changed)
    with TemporaryDirectory(prefix="jaxgpt-") as draft:
        carry_from = _companions(args, Path(draft), changed.config.context_length, write_tokenizer)
        kind = save_pretrained(
            changed,
            args.folder,
            args.architecture,
            args.dtype,
            carry_from=carry_from,
            shard_bytes=parse_bytes(args.shard_size),
            allow_nonfinite=args.allow_nonfinite,
            origin=_origin(args.source, changes),
            check=certify if args.verify else None,
        )
        left = left_behind(carry_from) if (carry_from / CONFIG).exists() else []
    told = f"; left behind: {', '.join(left)}" if left else ""
    console.print(f"{args.folder} holds a {kind} model{_lacking(args.folder, kind)}{told}", soft_wrap=True)
    if args.push_to is not None:
        name_on_card(args.folder, args.push_to)
        address = push(args.folder, args.push_to)
        console.print(f"pushed to {address}; a new model is private until you publish it there", soft_wrap=True)
    return None


def verify(args: Verify, *, load: Load = load_pretrained) -> int:
    """Print the certificate; returns the exit code: 0 where every bound holds, 1 where one is exceeded."""
    step = {} if args.step == "latest" else {"step": args.step}
    model = load(args.source, dtype=args.dtype, **step)
    certificate = certificate_of(args.source, args.against, model=model, load=load)
    if args.json:
        sys.stdout.write(certificate.to_json() + "\n")
    else:
        Console().print(certificate.to_table())
    return 0 if certificate.holds else 1


def _options(args: Convert) -> dict[str, Any]:
    """What is passed to `load` only where it was asked for: not every kind of source has it."""
    allowed = {"allow_nonfinite": True} if args.allow_nonfinite else {}
    return allowed if args.step == "latest" else allowed | {"step": args.step}


def _print_plan(console: Console, args: Convert, model: GPT) -> None:
    kind = select_architecture(model.config, args.architecture)
    files = planned_files(model, kind, args.dtype, parse_bytes(args.shard_size))
    console.print(f"{args.folder} would hold a {kind} model, its weights in", soft_wrap=True)
    for name, size in files.items():
        console.print(f"  {name}  {size:,} bytes", soft_wrap=True)
    console.print("nothing was written")


def _lacking(folder: Path, kind: str) -> str:
    """The end of the message, where transformers will find no tokenizer."""
    if kind not in OPENED_BY_TRANSFORMERS or tokenizer_files(folder):
        return ""
    return "; its tokenizer is not GPT-2's and was not found, so that AutoTokenizer will not open the folder"


def _origin(source: str, changes: dict[str, Any]) -> str:
    name = source if not is_local(source) else f"`{Path(source).name}`"
    return name + "".join(f", {field}={value}" for field, value in changes.items())


def _companions(args: Convert, draft: Path, context_length: int, write_tokenizer: WriteTokenizer | None) -> Path:
    """The folder with the tokenizer's files of a source: its own, or `draft` where they have to be made."""
    path = local_path(args.source)
    folder = path if path.is_dir() else path.parent
    if is_adapter(folder) and not tokenizer_files(folder):
        folder = local_path(base_of(folder))
    opened = tokenizer_files(folder) and path.suffix != ".gguf"  # which has its tokenizer inside
    opened = opened and not (folder / HPARAMS).exists()  # OpenAI's encoder.json, which AutoTokenizer does not open
    if opened or args.architecture in ("nanogpt", "llm.c") or write_tokenizer is None:
        return folder
    return draft if write_tokenizer(args.source, draft, context_length) else folder


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
    if (largest := int(tokens.max())) >= after.config.vocab_size:
        raise UserError(
            f"the text has token {largest}, and the model {after.config.vocab_size} tokens: "
            "the tokenizer is another model's"
        )
    batch = jnp.asarray(tokens[: rows * length].reshape(rows, length).astype(np.int32))
    losses = [float(jax.jit(next_token_loss)(model, batch)) for model in (before, after)]
    console.print(
        f"loss on {batch.size:,} tokens: {losses[0]:.3f} before, {losses[1]:.3f} after (nats per token)", soft_wrap=True
    )
