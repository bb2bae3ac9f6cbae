"""Any tokenizer that a tokenizer.json describes, by Hugging Face's tokenizers: read, trained, written."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from jaxgpt.data.tokenizer import CharTokenizer, id_dtype, known_ids
from jaxgpt.errors import UserError

END_OF_TEXT = "<|endoftext|>"
SMALLEST_VOCABULARY = 257
"""Every byte, and the end of a text."""
LARGEST_VOCABULARY = 1_000_000
"""Four times what the largest tokenizers have."""


class HFTokenizer:
    """A tokenizer.json: byte pairs, WordPiece, Unigram, single characters.

    Added tokens that it marks as special are text, unless `encode` gets special=True. The others are always tokens:
    GPT-NeoX, for one, spells runs of blanks by them.
    """

    name = "hf"

    def __init__(self, tokenizer_json: str, end_of_text: int | None = None, stop_tokens: tuple[int, ...] = ()) -> None:
        """Raises UserError where the JSON is no tokenizer."""
        try:
            self._backend = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # what `tokenizers` raises is of no narrower class
            raise UserError(f"this is no tokenizer.json that the package tokenizers reads: {error}") from None
        self._backend.no_padding()
        self._backend.no_truncation()
        self._json = tokenizer_json
        self.vocab_size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.end_of_text = end_of_text
        self.stop_tokens = stop_tokens or (() if end_of_text is None else (end_of_text,))
        if self.vocab_size == 0:
            raise UserError("this tokenizer.json has no tokens")

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        return self._encode([text], special)[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self._encode(list(texts), special=False)

    def decode(self, tokens: Iterable[int]) -> str:
        return self._backend.decode(known_ids(tokens, self.vocab_size), skip_special_tokens=False)

    def id_of(self, token: str) -> int | None:
        """The id of a token by its name in the file."""
        return self._backend.token_to_id(token)

    def spec(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tokenizer_json": self._json,
            "end_of_text": self.end_of_text,
            "stop_tokens": list(self.stop_tokens),
        }

    def _encode(self, texts: list[str], special: bool) -> list[np.ndarray]:
        self._backend.encode_special_tokens = not special
        try:
            found = self._backend.encode_batch_fast([_unicode(text) for text in texts], add_special_tokens=False)
        except Exception as error:  # of no narrower class: a vocabulary without a token for what is unknown
            raise UserError(f"the text has what this tokenizer has no token for ({error}): take it out") from None
        return [np.array(encoding.ids, id_dtype(self.vocab_size)) for encoding in found]


def train_bpe(texts: Iterable[str], vocab_size: int, *, at_most: bool = False) -> HFTokenizer:
    """Byte-level byte pairs as GPT-2's (Radford et al. 2019, section 2.2), of one's own text; token 0 is <|endoftext|>.

    Raises UserError where vocab_size does not hold every byte or is above a million, or the text has too few different
    pairs; with `at_most` the vocabulary is then smaller instead.

    Example:
        >>> tokenizer = train_bpe(["low lower lowest"] * 3, vocab_size=260)
        >>> tokenizer.decode(tokenizer.encode("lowest"))
        'lowest'
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(f"vocab_size={vocab_size} is below {SMALLEST_VOCABULARY}: 256 bytes and {END_OF_TEXT}")
    if vocab_size > LARGEST_VOCABULARY:  # the trainer makes room for all of them before it reads
        raise UserError(f"vocab_size={vocab_size} is above {LARGEST_VOCABULARY:,}: ask for fewer tokens")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    if (found := backend.get_vocab_size()) < vocab_size and not at_most:
        raise UserError(f"vocab_size={vocab_size}, and the text has pairs for {found} only: use that, or more text")
    return HFTokenizer(backend.to_str(), end_of_text=0)


def character_json(characters: str) -> str:
    """A tokenizer.json with one token per character: the same ids as CharTokenizer's."""
    backend = Tokenizer(models.WordLevel({character: i for i, character in enumerate(characters)}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend.to_str()


def write_tokenizer(tokenizer: HFTokenizer | CharTokenizer, folder: Path, context_length: int | None = None) -> None:
    """The files tokenizer.json and tokenizer_config.json, which AutoTokenizer opens and `read_tokenizer` reads."""
    spec = tokenizer.spec()
    text = spec["tokenizer_json"] if spec["name"] == HFTokenizer.name else character_json(spec["characters"])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if context_length is not None:
        config["model_max_length"] = context_length
    if tokenizer.end_of_text is not None:
        config |= dict.fromkeys(("bos_token", "eos_token"), Tokenizer.from_str(text).id_to_token(tokenizer.end_of_text))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def from_pairs(vocab: Path, merges: Path, added: dict[str, int]) -> str:
    """GPT-2's older files, vocab.json and merges.txt, as a tokenizer.json, with added tokens, all special."""
    try:
        backend = Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # of no narrower class
        raise UserError(f"{vocab} and {merges.name} are not a byte-pair vocabulary: {error}") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    known = backend.get_vocab()
    ordered = sorted(added, key=lambda token: (known.get(token, added[token]), token))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ordered])
    return backend.to_str()


def canonical(tokenizer_json: str) -> Iterator[str]:
    """What decides the ids, in one spelling: files of several versions write the same tokenizer differently."""
    fields = json.loads(tokenizer_json)
    model, pre = fields.get("model") or {}, fields.get("pre_tokenizer") or {}
    yield json.dumps([fields.get("normalizer"), model.get("type", "BPE"), pre.get("type"), pre.get("add_prefix_space")])
    yield json.dumps(pre.get("use_regex", True))
    yield json.dumps([[token["id"], token["content"]] for token in fields.get("added_tokens") or []])
    yield json.dumps(sorted((model.get("vocab") or {}).items()))
    yield json.dumps([m.split(" ") if isinstance(m, str) else m for m in model.get("merges") or []])


def _unicode(text: str) -> str:
    """The text with U+FFFD for what no encoding can write (a lone surrogate), as tiktoken does."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
