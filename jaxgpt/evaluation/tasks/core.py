"""CORE (Li et al. 2024, DataComp-LM): 22 tasks in one number, as nanochat computes it."""

import csv
import io
import random
from itertools import takewhile
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]

from jaxgpt.data import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.scorer import Continuation, Scorer
from jaxgpt.evaluation.tasks.task import Measure, Outcome, Published, Task, mean

Pair = tuple[np.ndarray, np.ndarray]


def score(scorer: Scorer, data: TaskData) -> Outcome:
    """Accuracies, each as the part of the way from guessing to perfect, and their mean."""
    tasks = yaml.safe_load(data.text("eval_bundle/core.yaml"))["icl_tasks"]
    table = csv.DictReader(io.StringIO(data.text("eval_bundle/eval_meta_data.csv")))
    guessing = {row["Eval Task"]: 0.01 * float(row["Random baseline"]) for row in table}
    centred, errors, examples = {}, [], 0
    for settings in tasks:
        rows = data.jsonl(f"eval_bundle/eval_data/{settings['dataset_uri']}")
        right = score_rows(scorer, rows, settings)
        accuracy, baseline = mean(right), guessing[settings["label"]]
        centred[settings["label"]] = (accuracy.value - baseline) / (1 - baseline)
        errors.append((accuracy.standard_error or 0.0) / (1 - baseline))
        examples += len(right)
    error = float(np.sqrt(np.square(errors).sum()) / len(errors))
    return Outcome({"core": Measure(float(np.mean(list(centred.values()))), error)}, examples, centred)


def score_rows(scorer: Scorer, rows: list[dict[str, Any]], settings: dict[str, Any]) -> list[bool]:
    """Which rows of one task are answered rightly."""
    kind = settings["icl_task_type"]
    if kind not in PROMPTS:
        raise UserError(f"CORE's {settings['label']} is of the unknown kind {kind!r}: known are {', '.join(PROMPTS)}")
    random.Random(1337).shuffle(rows)
    asked = rows[: scorer.limit]
    texts = [PROMPTS[kind](row, examples_for(rows, i, settings), delimiter(settings)) for i, row in enumerate(asked)]
    groups = [cut(scorer.tokenizer, prompts, kind) for prompts in texts]
    found = iter(scorer.continuation_tokens([pair for group in groups for pair in group]))
    answers = [[next(found) for _ in group] for group in groups]
    return [is_right(answer, row, kind) for answer, row in zip(answers, asked, strict=True)]


def delimiter(settings: dict[str, Any]) -> str:
    """What stands between a question and its answer."""
    return settings.get("continuation_delimiter", " ")


def examples_for(rows: list[dict[str, Any]], index: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The solved examples before a row: others of the same task, drawn by the row's number."""
    others = [row for i, row in enumerate(rows) if i != index]
    return random.Random(1234 + index).sample(others, settings["num_fewshot"][0])


def choice_prompts(row: dict[str, Any], examples: list[dict[str, Any]], between: str) -> list[str]:
    """One question, and each answer after it."""
    solved = "".join(f"{one['query']}{between}{one['choices'][one['gold']]}\n\n" for one in examples)
    return [f"{solved}{row['query']}{between}{choice}" for choice in row["choices"]]


def schema_prompts(row: dict[str, Any], examples: list[dict[str, Any]], between: str) -> list[str]:
    """One continuation after each of several contexts."""
    solved = "".join(f"{one['context_options'][one['gold']]}{between}{one['continuation']}\n\n" for one in examples)
    return [f"{solved}{context}{between}{row['continuation']}" for context in row["context_options"]]


def text_prompts(row: dict[str, Any], examples: list[dict[str, Any]], between: str) -> list[str]:
    """The text to be continued, alone and with its continuation."""
    solved = "".join(f"{one['context'].strip()}{between}{one['continuation']}\n\n" for one in examples)
    context = f"{solved}{row['context'].strip()}{between}"
    return [context.strip(), context + row["continuation"]]


PROMPTS = {
    "multiple_choice": choice_prompts,
    "schema": schema_prompts,
    "language_modeling": text_prompts,
}


def cut(tokenizer: Tokenizer, prompts: list[str], kind: str) -> list[Pair]:
    """Prompts as tokens after end_of_text, cut where what is scored begins: where choices part, or contexts end."""
    start = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    texts = [np.array([*start, *ids.tolist()]) for ids in tokenizer.encode_all(prompts)]
    if kind == "language_modeling":
        return [(texts[1][: len(texts[0])], texts[1][len(texts[0]) :])]
    if kind == "schema":
        shared = _shared([text[::-1] for text in texts])
        return [(text[: len(text) - shared], text[len(text) - shared :]) for text in texts]
    shared = _shared(texts)
    return [(text[:shared], text[shared:]) for text in texts]


def _shared(texts: list[np.ndarray]) -> int:
    """How many tokens all texts begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts)))


def is_right(answers: list[Continuation], row: dict[str, Any], kind: str) -> bool:
    """Of a text to be continued, every token greedily; of choices, the least mean loss."""
    if kind == "language_modeling":
        return answers[0].is_greedy
    return int(np.argmax([answer.logprob / answer.tokens for answer in answers])) == row["gold"]


CORE = Task(
    "core",
    "22 tasks of the bundle (questions with answers, contexts with one continuation, texts to be continued greedily), "
    "each with as many solved examples before as the bundle says, drawn by Random(1234 + number of the question). "
    "Accuracies a become (a - b) / (1 - b), b being that of guessing; core is their mean.",
    (
        TaskFile(
            "eval_bundle.zip",
            "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip",
            "90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200",
        ),
    ),
    (Published("core", "nanochat", (0.1139, 0.1849, 0.2146, 0.2565)),),
    score,
)
