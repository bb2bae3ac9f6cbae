"""Pieces of a long text, cut only where GPT-2's pattern cuts anyway: their tokens are the tokens of the whole."""

import unicodedata
from collections.abc import Iterable, Iterator

PIECE = 1 << 18
"""Characters of a piece, at most one more. tiktoken's pattern panics on a run of a million blanks, and a word of five
million letters takes it 8 s: neither fits into a piece."""

WHITE_SPACE = frozenset(filter(str.isspace, map(chr, range(0x3001)))) - set("\x1c\x1d\x1e\x1f")
r"""What Unicode calls so, and \s is in GPT-2's pattern; str.isspace() has some control characters more."""


def pieces(chunks: Iterable[str], length: int = PIECE) -> Iterator[str]:
    """The text that the chunks make together, in pieces; where they are cut does not depend on the chunks.

    A word that is longer than a piece, together with the blanks before it, is cut inside: there alone a few tokens
    differ.

    >>> list(pieces(["It was the ", "best of times"], length=12))
    ['It was the', ' best of', ' times']
    """
    held = ""
    for chunk in chunks:
        held, start = held + chunk, 0
        while len(held) - start > length + 1:
            cut = _last_cut(held, start, start + length)
            yield held[start:cut]
            start = cut
        held = held[start:]
    if held:
        yield held


def _last_cut(text: str, start: int, end: int) -> int:
    """The last place up to `end` where the pattern cuts; `end` itself where there is none."""
    return next((i for i in range(end, start, -1) if _is_cut(text[i - 1], text[i])), end)


def _is_cut(before: str, after: str) -> bool:
    """Whether no match of the pattern holds both characters, whatever stands around them.

    Blanks are only ever the first character of a match, or all of it; a run of letters ends where another kind of
    character begins, and so does a run of numbers. What this Python's Unicode does not know yet is not cut.
    """
    if after in WHITE_SPACE:
        return before not in WHITE_SPACE
    kind, next_kind = unicodedata.category(before)[0], unicodedata.category(after)[0]
    return kind in "LN" and next_kind in "LNPS" and kind != next_kind
