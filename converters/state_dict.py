"""Whether the tensors of files are those of a model, all of them and nothing else; every problem in one message."""

import math
import sys
from collections.abc import Sequence

import numpy as np

from converters.architectures import HEAD, Row, sizes
from converters.formats.tensors import Tensor, Tensors, unwrap
from converters.sources import Source
from jaxgpt.errors import UserError

MOST_PROBLEMS = 40
"""Lines of one message."""


def check_size(source: Source) -> None:
    """Raise UserError where a config asks for more layers, or longer axes, than the files can hold."""
    config, tensors = source.config, source.tensors
    numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
    letters = {letter: size for letter, size in sizes(config).items() if letter != "t" or config.position == "learned"}
    if config.num_layers > len(tensors) or max(letters.values()) > numbers:
        raise UserError(
            f"the files hold {len(tensors)} tensors of {numbers:,} numbers, too few for "
            f"num_layers={config.num_layers}, d_model={config.d_model}: config and weights are of two models"
        )


def check_state_dict(source: Source, rows: Sequence[Row]) -> Tensors:
    """The tensors by the names of the table. What wrappers added to names, and other heads, are dropped and told.

    Raises UserError with all tensors that are missing, unexpected or misshapen.
    """
    config, architecture = source.config, source.architecture
    tensors, wrappers = unwrap(source.tensors)
    if wrappers:
        sys.stderr.write(f"names are read without {' and '.join(wrappers)}, which a wrapper of the model put there\n")
    found = {architecture.short_name(name): tensor for name, tensor in tensors.items()}
    if len(found) < len(tensors):
        raise UserError(f"tensors occur twice, with and without {architecture.prefix!r}: keep one of each")
    embed = next(row.theirs for row in rows if row.ours == ("embed",))
    if config.tie_embeddings and embed not in found and HEAD in found:  # safetensors' save_model keeps this name
        found[embed] = found.pop(HEAD)
    if heads := sorted(name for name in found if architecture.is_other_head(name)):
        sys.stderr.write(f"{', '.join(heads)} dropped: not part of the language model\n")
    expected = {row.theirs: row.layout.shape(sizes(config)) for row in rows}
    problems = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in found]
    for name, tensor in found.items():
        if name in expected:
            problems += [f"misshapen: {name} {wrong}" for wrong in _shape_or_dtype_problem(tensor, expected[name])]
        elif not (architecture.is_ignored(name) or name in heads or _repeats_the_tied_head(name, embed, found)):
            problems.append(f"unexpected: {name} {list(tensor.shape)}")
    if problems:
        raise UserError(_message(problems, architecture.name))
    return found


def _message(problems: list[str], architecture: str) -> str:
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    lines = "\n  ".join(problems[:MOST_PROBLEMS] + more)
    lora = any("lora_" in problem or ".base_layer." in problem for problem in problems)
    cure = "; these are LoRA weights not merged: save model.merge_and_unload()" if lora else ""
    return f"the weights do not fit the config as {architecture}{cure}:\n  {lines}"


def _shape_or_dtype_problem(tensor: Tensor, shape: tuple[int, ...]) -> list[str]:
    if tensor.shape != shape:
        return [f"is {list(tensor.shape)} but has to be {list(shape)}"]
    return [] if tensor.dtype is not None else ["is not of float64, float32, float16 or bfloat16 numbers"]


def _repeats_the_tied_head(name: str, table: str, found: Tensors) -> bool:
    """Whether this is the head, written out though it is tied, and equal to the embedding table."""
    if name != HEAD or table not in found:
        return False
    head, embed = found[HEAD], found[table]
    return head.shape == embed.shape and head.dtype == embed.dtype and np.array_equal(head.view(), embed.view())
