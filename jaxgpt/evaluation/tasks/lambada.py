"""LAMBADA (Paperno et al. 2016): the last word of a passage, which needs all of the passage."""

from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Measure, Outcome, Published, Task, mean, perplexity

FILE = TaskFile(
    "lambada_test.jsonl",
    "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
    "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
)


def score_last_token(scorer: Scorer, data: TaskData) -> Outcome:
    """As the GPT-2 paper's numbers are reproduced."""
    texts = scorer.subset([row["text"].strip() for row in data.jsonl()])
    tokens = scorer.tokenizer.encode_all(texts)
    return _outcome(scorer.continuation_tokens([(ids[:-1], ids[-1:]) for ids in tokens]))


def score_last_word(scorer: Scorer, data: TaskData) -> Outcome:
    """As lm-eval's lambada_openai."""
    texts = [row["text"].split(" ") for row in scorer.subset(data.jsonl())]
    return _outcome(scorer.continuations([(" ".join(words[:-1]), " " + words[-1]) for words in texts]))


def _outcome(found: list) -> Outcome:
    loss: Measure = mean([-one.logprob for one in found])
    return Outcome({"ppl": perplexity(loss), "acc": mean([one.is_greedy for one in found])}, len(found))


LAMBADA = Task(
    "lambada",
    "5,153 passages, OpenAI's text. The last token of the passage after all before it: acc is whether it is the "
    "likeliest token, ppl the exponential of its mean loss. The paper's accuracy reproduces so (46.67).",
    (FILE,),
    (
        Published("ppl", "the paper, table 3", (35.13, 15.60, 10.87, 8.63)),
        Published("acc", "the paper, table 3", (0.4599, 0.5548, 0.6012, 0.6324)),
    ),
    score_last_token,
)
LAMBADA_OPENAI = Task(
    "lambada-openai",
    "The same passages as lm-eval's lambada_openai scores them: the last word, all its tokens; acc is whether each is "
    "the likeliest one, ppl the exponential of the mean loss of a word.",
    (FILE,),
    (
        Published("ppl", "lm-evaluation-harness#2159, #911", (40.06, None, None, 10.63)),
        Published("acc", "lm-evaluation-harness#2159", (0.3256, None, None, None)),
    ),
    score_last_word,
)
