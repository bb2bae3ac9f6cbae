"""The harness's requests, answered as its own Hugging Face model answers them."""

import json
import types

import jax
import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="the harness is not installed: pip install 'jaxgpt[lm-eval]'")
pytest.importorskip("accelerate", reason="the harness's own model needs torch and accelerate")

from lm_eval.api.instance import Instance

from converters import save_pretrained
from jaxgpt.commands.lm_eval import register
from jaxgpt.config import GPTConfig
from jaxgpt.data import GPT2Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluation.lm_eval import HarnessModel
from jaxgpt.loading import load
from tests.runs import jaxgpt
from tests.variants import loud

CONFIG = GPTConfig(context_length=64, num_layers=2, num_heads=2, d_model=32)
PAIRS = [
    ("The cat", " sat on the mat"),
    ("The cat ", "sat on the mat"),
    ("", "Hello there"),
    ("A" * 200, " b"),
    ("One two three", " four"),
    ("word " * 80, "and more words"),
]
DOCUMENTS = ["Short.", "The quick brown fox. " * 30, "x"]
PROMPTS = ["The cat sat", "One", "Many words " * 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm_eval") / "model"
    quiet = jax.tree.map(lambda leaf: 0.3 * leaf, loud(CONFIG))
    save_pretrained(quiet, folder)
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return HarnessModel(load(folder), GPT2Tokenizer(), batch_size=4)


@pytest.fixture(scope="module")
def theirs(folder):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)


def requests(kind, arguments):
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def test_continuations_are_scored_as_by_the_harness(ours, theirs):
    asked = requests("loglikelihood", PAIRS)
    found, expected = ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True)
    np.testing.assert_allclose([one for one, _ in found], [one for one, _ in expected], rtol=1e-5, atol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_documents_are_scored_as_by_the_harness(ours, theirs):
    asked = requests("loglikelihood_rolling", [(text,) for text in DOCUMENTS])
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    np.testing.assert_allclose(ours.loglikelihood_rolling(asked), expected, rtol=1e-5, atol=1e-4)


def test_texts_are_continued_as_by_the_harness(ours, theirs):
    settings = [{"until": ["\n"], "max_gen_toks": 12}, {"until": [" the", "e"], "max_gen_toks": 12, "do_sample": False}]
    asked = requests("generate_until", [(prompt, setting) for prompt in PROMPTS for setting in settings])
    assert ours.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


def test_a_generation_longer_than_the_context_is_refused(ours):
    with pytest.raises(UserError, match="max_gen_toks=64 leaves no room for a prompt in context_length=64"):
        ours.generate_until(requests("generate_until", [("a", {"until": [], "max_gen_toks": 64})]))


def test_model_args_count_more_than_the_harness_defaults(folder):
    from lm_eval.api.registry import get_model

    register()
    model = get_model("jaxgpt").create_from_arg_string(
        f"source={folder},batch_size=16", {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    )
    assert (model.batch_size, model.model.config.d_model) == (16, 32)


CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{q}}\\nAnswer:"
doc_to_target: gold
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
task: local_rolling
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rolling.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
GENERATE = """
task: local_generate
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/generate.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["."], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_metric_of_the_harness_is_the_same(folder, ours, tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    words = ["the", "a", "cat", "dog", "runs", "sits", "on", "mat", "big", "small", "red", "blue"]

    def text(count):
        return " ".join(rng.choice(words, count))

    questions = [
        {"q": text(9), "choices": [text(n) for n in (2, 3, 5)], "gold": int(rng.integers(3))} for _ in range(40)
    ]
    documents = [{"text": text(n)} for n in (3, 60, 200)]
    first = ours.generate_until(requests("generate_until", [(text(6), {"until": ["."], "max_gen_toks": 8})]))
    prompts = [{"q": text(6), "a": first[0]} for _ in range(6)]
    for name, template, rows in (
        ("choice", CHOICE, questions),
        ("rolling", ROLLING, documents),
        ("generate", GENERATE, prompts),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / f"{name}.yaml").write_text(template.replace("FOLDER", str(tmp_path)))
    register()
    tasks = ["local_choice", "local_rolling", "local_generate"]
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    found, expected = (
        simple_evaluate(model=model, model_args=args, tasks=tasks, task_manager=manager, device="cpu", batch_size=4)
        for model, args in (("jaxgpt", f"source={folder}"), ("hf", f"pretrained={folder},dtype=float32"))
    )
    assert set(found["results"]) == set(tasks)
    for task in tasks:
        ours_of, theirs_of = found["results"][task], expected["results"][task]
        assert ours_of.keys() == theirs_of.keys()
        for name, value in theirs_of.items():
            if isinstance(value, float):
                assert ours_of[name] == pytest.approx(value, rel=1e-4), (task, name)


def test_a_task_that_the_harness_does_not_know_is_one_message(monkeypatch):
    def refuse():
        raise ValueError("Tasks not found: hellaswagg, xyzzy")

    known = types.SimpleNamespace(all_tasks=["hellaswag", "lambada"])
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda: known)
    outcome = jaxgpt("lm_eval", "--tasks", "hellaswagg,xyzzy")
    assert outcome.code == 2
    assert outcome.err == (
        "jaxgpt: the harness has no task 'hellaswagg' (did you mean hellaswag?), no 'xyzzy'; "
        "`jaxgpt lm_eval ls tasks` lists all 2\n"
    )
