"""One door to every model: a run folder, a Hugging Face folder or hub id, a weights file."""

import json
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from jax.sharding import Mesh

from jaxgpt.config import GPTConfig
from jaxgpt.data import CharTokenizer, GPT2Tokenizer, Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.run import is_run, read_run, resume_command

Step = Literal["latest", "best"] | int
"""A checkpoint of a run."""


def load(
    source: str | Path, *, step: Step = "latest", mesh: Mesh | None = None, dtype: str | None = None, **changes: Any
) -> GPT:
    """The model at a source: a run folder, what `save` wrote, a Hugging Face folder or hub id, a weights file.

    step: which checkpoint of a run: the latest, the best (lowest validation loss), or the one of a step.
    mesh: of axes (data, fsdp), over which each parameter is sharded; None: one device. dtype: what the model computes
    in, float32 or bfloat16; parameters are float32. changes: fields of GPTConfig, to which the weights are made to fit:
    window=256, num_kv_heads=4 (with kv_init="mean", "first" or "svd"), position="rotary".

    Raises UserError where there is no model, or a change needs weights that the source does not have.

    Example:
        >>> import tempfile
        >>> from flax import nnx
        >>> from jaxgpt.config import GPTConfig
        >>> folder = tempfile.mkdtemp() + "/model"
        >>> save(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0)), folder)
        >>> load(folder, window=8).config.window
        8
    """
    changes |= {} if dtype is None else {"dtype": dtype}
    if not is_run(Path(source)):
        if step != "latest":
            raise UserError(f"step={step!r} names a checkpoint of a run, and {source} is no run: leave it out")
        _check_is_no_run_part(Path(source))
        from converters import load_pretrained

        return load_pretrained(str(source), mesh, **changes)
    from converters.load import adapt

    run = read_run(Path(source))
    with Checkpoints(run.checkpoints) as checkpoints:
        if checkpoints.latest is None:
            raise UserError(f"{source} has no checkpoint yet; train it first: {resume_command(run.folder)}")
        model = checkpoints.load_model(run.config, step, mesh)
    options = {name: changes.pop(name) for name in ("kv_init",) if name in changes}
    changes.pop("allow_nonfinite", None)  # a run's weights are taken as they are
    return adapt(model, mesh, changes=changes, **options)


def fingerprint(source: str | Path) -> str:
    """A hash of a source's files, of large ones of places spread over them: other weights are noticed without reading
    all. Raises UserError where there is no such source.
    """
    from converters.hub import local_path
    from jaxgpt.data.foreign import fingerprint as fingerprint_of_file

    path = local_path(source)
    files = [path]
    if is_run(path):
        run = read_run(path)
        files = [path / "config.json", *(run.checkpoints / str(run.open_checkpoints().latest)).rglob("*")]
    elif path.is_dir():
        files = list(path.iterdir())
    found = [[str(file.relative_to(path)), fingerprint_of_file(file)] for file in sorted(files) if file.is_file()]
    return sha256(json.dumps(found).encode()).hexdigest()


def save(model: GPT, folder: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write any model, whatever its variant, into a new folder that `load` opens to the last bit.

    The folder holds config.json with the GPTConfig, safetensors under the names that parameters have in the model, the
    tokenizer's files and a model card. It appears whole or not at all. For a folder that transformers opens see
    `converters.save_pretrained` and `jaxgpt convert`.

    Raises UserError where the folder is not empty, a weight is NaN or infinite, or the tokenizer has more tokens than
    the model.

    Example:
        >>> import tempfile
        >>> from flax import nnx
        >>> from jaxgpt.config import GPTConfig
        >>> folder = tempfile.mkdtemp() + "/model"
        >>> save(GPT(GPTConfig.preset("tiny", window=(8, None)), rngs=nnx.Rngs(0)), folder)
        >>> load(folder).config.window
        (8, None)
    """
    from converters import save_pretrained

    with TemporaryDirectory(prefix="jaxgpt-") as draft:
        if tokenizer is not None:
            check_vocabulary(tokenizer, model.config, "the model")
            write_tokenizer_files(tokenizer, Path(draft), model.config.context_length)
        save_pretrained(model, folder, "jaxgpt", tokenizer=None if tokenizer is None else draft)


def write_tokenizer_files(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """The files of any tokenizer, which AutoTokenizer opens and `load_tokenizer` reads."""
    if isinstance(tokenizer, GPT2Tokenizer):
        from converters.gpt2_tokenizer import write_gpt2_tokenizer

        return write_gpt2_tokenizer(folder, context_length)
    from jaxgpt.data.hf_tokenizer import HFTokenizer, write_tokenizer

    if not isinstance(tokenizer, HFTokenizer | CharTokenizer):
        raise UserError(f"a tokenizer of class {type(tokenizer).__name__} has no files: save without it")
    return write_tokenizer(tokenizer, folder, context_length)


def write_source_tokenizer(source: str | Path, folder: Path, context_length: int) -> bool:
    """Write the files of a source's tokenizer; whether it has one. The reason why not is said on stderr."""
    try:
        tokenizer = load_tokenizer(source)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return False
    write_tokenizer_files(tokenizer, folder, context_length)
    return True


def _check_is_no_run_part(path: Path) -> None:
    """Raise UserError where a path is a folder above runs, or within one."""
    if not path.is_dir() or (path / "config.json").exists():
        return
    if runs := [child for child in path.iterdir() if is_run(child)]:
        newest = max(runs, key=lambda run: (run / "config.json").stat().st_mtime)
        raise UserError(f"{path} is a folder of {len(runs)} runs, not a model: name one of them, such as {newest}")
    for parent in list(path.absolute().parents)[:3]:
        if is_run(parent) and not any(path.glob("*.pt")) and not any(path.glob("*.bin")):
            raise UserError(f"{path} lies within a run: name the run {parent}, and a checkpoint of it by --step")


def adapt_weights(model: GPT, config: GPTConfig) -> GPT:
    """The model under another config, its weights made to fit. Raises UserError where they cannot be."""
    from converters.adapt import adapt_weights

    before, after = model.config.to_dict(), config.to_dict()
    return adapt_weights(model, **{name: value for name, value in after.items() if value != before[name]})


def load_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer of a source: a run's own, or what lies in the folder, beside the weights file or on the hub.

    GPT-2's where the files are GPT-2's, or where there are none and the model has exactly its vocabulary; the latter is
    said on stderr. Raises UserError where the source has no tokenizer, or one that cannot be read.

    Example:
        >>> import tempfile
        >>> from flax import nnx
        >>> from jaxgpt import GPT, CharTokenizer, GPTConfig, load_tokenizer, save
        >>> folder = tempfile.mkdtemp() + "/model"
        >>> save(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0)), folder, CharTokenizer("abc"))
        >>> load_tokenizer(folder).encode("cab").tolist()
        [2, 0, 1]
    """
    from converters.hub import local_path
    from converters.lora import base_of, is_adapter
    from jaxgpt.data.tokenizer_files import read_tokenizer

    if is_run(Path(source)):
        return read_run(Path(source)).tokenizer
    path = local_path(source)
    if (found := _in_gguf(path) or read_tokenizer(path)) is not None:
        return found
    if path.is_dir() and is_adapter(path):
        return load_tokenizer(base_of(path))
    return _nanogpt_characters(path) or _gpt2_by_vocabulary(path)


def check_vocabulary(tokenizer: Tokenizer, config: GPTConfig, source: str | Path) -> None:
    """Raise UserError where a text may hold tokens that the model does not know. Rows past the tokenizer's are fine."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the {tokenizer.name} tokenizer has {tokenizer.vocab_size} tokens and {source} {config.vocab_size}: "
            "it is another model's; name the right one by --tokenizer"
        )


def _in_gguf(path: Path) -> Tokenizer | None:
    """The tokenizer in a GGUF file, which is part of the model."""
    from converters.formats.gguf_reader import write_gguf_tokenizer
    from converters.formats.gguf_tables import FILE
    from jaxgpt.data.tokenizer_files import read_tokenizer

    file = path / FILE if path.is_dir() and not (path / "config.json").exists() else path
    if file.suffix != ".gguf" or not file.is_file():
        return None
    with TemporaryDirectory(prefix="jaxgpt-") as draft:
        return read_tokenizer(Path(draft)) if write_gguf_tokenizer(file, Path(draft)) else None


def _nanogpt_characters(path: Path) -> Tokenizer | None:
    """The characters of a ckpt.pt: data/DATASET/meta.pkl beside its folder, where nanoGPT's own sample.py looks."""
    file = path / "ckpt.pt" if path.is_dir() else path
    if file.suffix != ".pt" or not file.is_file():
        return None
    from converters.formats.torch_files import unpickled
    from jaxgpt.data.tokenizer_files import META, read_tokenizer

    checkpoint = unpickled(file)
    settings = checkpoint.get("config") if isinstance(checkpoint, dict) else None
    dataset = settings.get("dataset") if isinstance(settings, dict) else None
    if not isinstance(dataset, str) or Path(dataset).name != dataset:
        return None
    meta = file.absolute().parent.parent / "data" / dataset / META
    return read_tokenizer(meta) if meta.is_file() else None


def _gpt2_by_vocabulary(path: Path) -> Tokenizer:
    from converters.load import open_source

    size = open_source(path).config.vocab_size
    if size != GPT2Tokenizer.vocab_size:
        raise UserError(
            f"{path} has no tokenizer (no tokenizer.json, vocab.json with merges.txt, or meta.pkl), and its vocabulary "
            f"of {size} is not GPT-2's: put the file there, or name a source that has it by --tokenizer"
        )
    sys.stderr.write(f"{path} has no tokenizer; it has GPT-2's number of tokens, so GPT-2's is used\n")
    return GPT2Tokenizer()
