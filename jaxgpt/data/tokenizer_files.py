"""The tokenizer that lies in a folder, whoever wrote it: Hugging Face's files, OpenAI's, nanoGPT's meta.pkl."""

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any, NoReturn

from jaxgpt.data.hf_tokenizer import HFTokenizer, canonical, from_pairs
from jaxgpt.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer
from jaxgpt.errors import UserError

GPT2_SHA256 = "91f0db3c367e52290772a6d3636679276dda800b380e92c7e3356edcfed3abed"
"""Of GPT-2's tokenizer in the spelling of `canonical`."""

JSON = "tokenizer.json"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""Byte pairs as transformers and OpenAI wrote them before there was a tokenizer.json."""
BYTE_LEVEL = {"GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "CodeGenTokenizer", "BartTokenizer"}
"""The classes whose vocab.json and merges.txt are pairs of bytes, as GPT-2's; without a class they are."""
BY_TRANSFORMERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
META = "meta.pkl"
LARGEST_FILE = 200_000_000
"""Bytes; the largest vocabularies have 35 million."""
CHOICES = (
    "--data.tokenizer has to be gpt2, char, bpe-N for N byte pairs of the text itself, or a folder with a tokenizer, "
    "such as `jaxgpt data tokenizer` makes"
)


def as_tokenizer(name: str | Tokenizer) -> Tokenizer:
    """The tokenizer of a name: gpt2, or what lies in a folder. Raises UserError where it is neither."""
    if not isinstance(name, str):
        return name
    if name == GPT2Tokenizer.name:
        return GPT2Tokenizer()
    found = read_tokenizer(Path(name).expanduser())
    if found is None:
        raise UserError(f"tokenizer {name!r} is not known: {CHOICES}")
    return found


def read_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer of a folder, or beside a weights file; None where there is none.

    Raises UserError where its files are broken, or need transformers and it is not installed.
    """
    try:
        return _found(path)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # a field of another type than its name says
        raise UserError(f"the tokenizer's files of {path} cannot be read ({error!r}): get them again") from error


def _found(path: Path) -> Tokenizer | None:
    if path.name in (META, JSON) and path.is_file():
        return _characters(path) if path.name == META else _huggingface(_text(path), path.parent)
    folder = path if path.is_dir() else path.parent
    if (folder / JSON).is_file():
        return _huggingface(_text(folder / JSON), folder)
    config = _read(folder / "tokenizer_config.json")
    for vocab, merges in PAIRS:
        byte_level = config.get("tokenizer_class", "GPT2Tokenizer") in BYTE_LEVEL
        if byte_level and (folder / vocab).is_file() and (folder / merges).is_file():
            return _huggingface(from_pairs(folder / vocab, folder / merges, _added(folder, config)), folder)
    if (folder / META).is_file():
        return _characters(folder / META)
    for name in BY_TRANSFORMERS:
        if (folder / name).is_file():
            return _by_transformers(folder, name)
    return None


def _huggingface(text: str, folder: Path) -> Tokenizer:
    digest = hashlib.sha256()
    try:
        for part in canonical(text):
            digest.update(part.encode())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder / JSON} is no tokenizer: {error}") from None
    stops = _stop_tokens(folder)
    if digest.hexdigest() == GPT2_SHA256 and stops <= {GPT2Tokenizer.end_of_text}:
        return GPT2Tokenizer()
    try:
        found = HFTokenizer(text)
    except UserError as error:
        raise UserError(f"{folder / JSON}: {error}") from None
    end = _end_of_text(folder, found)
    stops |= set() if end is None else {end}
    return HFTokenizer(text, end, tuple(sorted(stop for stop in stops if stop < found.vocab_size)))


def _end_of_text(folder: Path, tokenizer: HFTokenizer) -> int | None:
    """The id of the token that the folder's files call eos; else the config's; else <|endoftext|>, where there is."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _content(_read(folder / file).get("eos_token"))
        if token is not None and (found := tokenizer.id_of(token)) is not None:
            return found
    ids = _ids(_read(folder / "config.json").get("eos_token_id"))
    return ids[0] if ids and ids[0] < tokenizer.vocab_size else tokenizer.id_of("<|endoftext|>")


def _stop_tokens(folder: Path) -> set[int]:
    """All ids that the model's config files call eos."""
    files = (_read(folder / name) for name in ("config.json", "generation_config.json"))
    return {i for file in files for i in _ids(file.get("eos_token_id"))}


def _added(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """The added tokens of the older files, and their ids."""
    added = {token: i for token, i in _read(folder / "added_tokens.json").items() if isinstance(i, int)}
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        added[_content(token) or ""] = int(number)
    vocabulary = _read(folder / PAIRS[0][0]) or _read(folder / PAIRS[1][0])
    named = {**_read(folder / "special_tokens_map.json"), **config}
    for kind in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = _content(named.get(kind)) or ("<|endoftext|>" if kind == "eos_token" else None)
        if token in vocabulary:
            added[token] = vocabulary[token]
    added.pop("", None)
    return added


def _by_transformers(folder: Path, name: str) -> Tokenizer:
    """A vocabulary of SentencePiece or WordPiece, in the JSON that transformers makes of it."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError(
            f"{folder / name} is read by transformers, which is not here: pip install 'jaxgpt[hf]'"
        ) from None
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / name} is a vocabulary that transformers does not open: {error}") from error
    if not getattr(found, "is_fast", False):
        raise UserError(f"{folder / name} has a tokenizer without a tokenizer.json; save one with transformers first")
    return _huggingface(found.backend_tokenizer.to_str(), folder)


class _DataOnly(pickle.Unpickler):
    """Dicts, strings and numbers: a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _characters(path: Path) -> CharTokenizer:
    """NanoGPT's meta.pkl: `itos`, the character of each id."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError("it is larger than any such table")
        meta = _DataOnly(io.BytesIO(path.read_bytes())).load()
        characters = [meta["itos"][i] for i in range(meta["vocab_size"])]
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not nanoGPT's table of characters (vocab_size, stoi, itos): {error!r}") from None
    if any(not isinstance(one, str) or len(one) != 1 for one in characters):
        raise UserError(f"{path} has tokens that are not single characters")
    return CharTokenizer("".join(characters))


def _text(path: Path) -> str:
    """The text of a file that may come from anywhere. Raises UserError where it is larger than any tokenizer's."""
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise UserError(f"{path} has {size:,} bytes, and a tokenizer's at most {LARGEST_FILE:,}: get it again")
    return path.read_text(encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises UserError where it is something else."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not an object of fields")
    return found


def _content(token: Any) -> str | None:
    """A token as text: files write it so, or as an object with its content."""
    return token.get("content") if isinstance(token, dict) else token


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [i for i in values if isinstance(i, int) and not isinstance(i, bool) and i >= 0]
