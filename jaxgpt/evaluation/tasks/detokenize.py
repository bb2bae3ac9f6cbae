"""Text as people write it, from corpora that put blanks around punctuation (section 3.1 of the GPT-2 paper).

OpenAI never published its rules; these are the ones that lm-evaluation-harness and Megatron-LM use, as tables.
"""

import re

NUMBERS = {" @-@ ": "-", " @,@ ": ",", " @.@ ": "."}
PUNCTUATION = {f" {mark} ": f"{mark} " for mark in ":;.!?,"}
PAIRS = (("(", r"\)", ")"), ("[", r"\]", "]"), ("{", "}", "}"), ('"', '"', '"'), ("'", "'", "'"))
"""What opens, what a text inside has none of, what closes; blanks inside go."""
REST = {
    "= = = =": "====",
    "= = =": "===",
    "= =": "==",
    " ° ": "°",
    " \n": "\n",
    "\n ": "\n",
    " N ": " 1 ",
    " 's": "'s",
}
PENN = {" '": "'", " \n": "\n", "\n ": "\n", " n't": "n't", " N ": " 1 ", "$ 1": "$1", "# 1": "#1"}


def wikitext(text: str) -> str:
    """WikiText's text."""
    text = _replaced(text.replace("s '", "s'"), NUMBERS | PUNCTUATION)
    for opening, inside, closing in PAIRS:
        text = re.sub(rf"{re.escape(opening)}\s*([^{inside}]*?)\s*{re.escape(closing)}", rf"{opening}\1{closing}", text)
    return _replaced(text, REST)


def penn_treebank(text: str) -> str:
    """Penn Treebank's text."""
    return _replaced(text, PENN)


def _replaced(text: str, table: dict[str, str]) -> str:
    for before, after in table.items():
        text = text.replace(before, after)
    return text
