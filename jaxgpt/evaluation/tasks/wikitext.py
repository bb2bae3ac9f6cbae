"""WikiText (Merity et al. 2016): articles of Wikipedia, by word perplexity."""

import re

from jaxgpt.evaluation.tasks import detokenize
from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Outcome, Published, Task, perplexity

SITE = "https://wikitext.smerity.com"


def score_stream(scorer: Scorer, data: TaskData) -> Outcome:
    """The test set as one text; a word is what blanks or line ends separate, and a line end."""
    text = data.text("wikitext-103/wiki.test.tokens")
    nats, windows = scorer.nats_per_unit([detokenize.wikitext(text)], words_and_lines(text))
    return Outcome({"word_ppl": perplexity(nats)}, windows)


def score_both(scorer: Scorer, data: TaskData) -> Outcome:
    """As one text, as the paper has it, and page by page, as lm-eval has it."""
    text = data.text("wikitext-2-raw/wiki.test.raw")
    stream, windows = scorer.nats_per_unit([detokenize.wikitext(text)], words_and_lines(text))
    pages = split_pages(text)
    words = sum(len(re.split(r"\s+", page)) for page in pages)
    by_page, _ = scorer.nats_per_unit([detokenize.wikitext(page) for page in pages], words)
    return Outcome({"word_ppl": perplexity(stream), "lm_eval_word_ppl": perplexity(by_page)}, windows)


def words_and_lines(text: str) -> int:
    """Words as the corpus has them, an end-of-sentence for each line among them."""
    return len(text.split()) + text.strip("\n").count("\n") + 1


def split_pages(text: str) -> list[str]:
    """Articles: each begins with a title of the first level."""
    pages: list[list[str]] = [[]]
    for line in text.split("\n"):
        if re.fullmatch(r"\s*= (?!=).*(?<!=) =\s*", line) and any(part.strip() for part in pages[-1]):
            pages.append([])
        pages[-1].append(line)
    return ["\n".join(page) for page in pages]


WIKITEXT103 = Task(
    "wikitext103",
    "The test set as one text, its tokenisation undone; loss per original word (line ends count as words), in windows "
    "of the context length (--stride gives each token more context).",
    (
        TaskFile(
            "wikitext-103-v1.zip",
            f"{SITE}/wikitext-103-v1.zip",
            "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
            ("wikitext-103/wiki.test.tokens",),
        ),
    ),
    (Published("word_ppl", "the paper, table 3", (37.50, 26.37, 22.05, 17.48)),),
    score_stream,
)
WIKITEXT2 = Task(
    "wikitext2",
    "The raw test set. word_ppl: as wikitext103. lm_eval_word_ppl (wikitext 2.0 of lm-eval): each article by itself "
    "after end_of_text, its words counted by white space before the tokenisation is undone.",
    (
        TaskFile(
            "wikitext-2-raw-v1.zip",
            f"{SITE}/wikitext-2-raw-v1.zip",
            "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
            ("wikitext-2-raw/wiki.test.raw",),
        ),
    ),
    (
        Published("word_ppl", "the paper, table 3", (29.41, 22.76, 19.93, 18.34)),
        Published("lm_eval_word_ppl", "transformers#13761", (37.37, None, None, None)),
    ),
    score_both,
)
