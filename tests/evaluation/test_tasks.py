"""Each task from a small file in its real format, with scores known by hand."""

import dataclasses
import hashlib
import io
import json
import math
import re
import zipfile

import numpy as np
import pytest

from jaxgpt.config import GPTConfig
from jaxgpt.data import GPT2Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluation.evaluate import ratio_error
from jaxgpt.evaluation.tasks import detokenize
from jaxgpt.evaluation.tasks.core import examples_for
from jaxgpt.evaluation.tasks.in_training import TaskMetrics
from jaxgpt.evaluation.tasks.run import TASKS, find_tasks, run_task
from jaxgpt.evaluation.tasks.scorer import Scorer, encode_pairs
from jaxgpt.evaluation.tasks.task import mean, published
from jaxgpt.evaluation.tasks.wikitext import split_pages, words_and_lines
from tests.evaluation.alphabet import NEXT, OTHER, TOKENIZER, alphabet_model, logprob

MODEL = alphabet_model(context_length=64)


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def archive(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return content.getvalue()


def written(name, folder, *contents):
    """The task with these files in a folder, known by their own hashes."""
    files = []
    for file, content in zip(TASKS[name].files, contents, strict=False):
        (folder / file.name).write_bytes(content)
        files.append(dataclasses.replace(file, sha256=hashlib.sha256(content).hexdigest()))
    return dataclasses.replace(TASKS[name], files=tuple(files))


def outcome(name, folder, *contents, model=MODEL, **settings):
    return run_task(written(name, folder, *contents), Scorer(model, TOKENIZER, **settings), folder)[0]


def values(found):
    return {metric: measure.value for metric, measure in found.measures.items()}


SCENE = {"activity_label": "Walking", "ctx": "He is at a", "ctx_a": "He is", "ctx_b": "at a"}


def test_hellaswag_by_token_by_character_and_by_sum(tmp_path):
    rows = [
        # The long ending is likelier by token and by character, a short one in all.
        SCENE | {"endings": ["abcdefghij", "z", "zz", "zzz"], "label": 0},
        SCENE | {"endings": ["abc", "zzz", "zz [title] z", "[header] zz"], "label": 0},
        SCENE | {"endings": ["abc", "bcd", "xyx", "zzz"], "label": 3},
    ]
    assert logprob(" z", "a") > logprob(" abcdefghij", "a")
    found = outcome("hellaswag", tmp_path, jsonl(*rows))
    assert values(found) == {"acc_token": 2 / 3, "acc": 1 / 3, "acc_norm": 2 / 3}
    assert found.examples == 3
    assert found.measures["acc"].standard_error == pytest.approx(math.sqrt(2 / 9 / 2))


def test_lambada_by_last_token_and_by_last_word(tmp_path):
    content = jsonl({"text": "he said xyz"}, {"text": "and no c"})
    last = [logprob("z", "y"), logprob("c", " ")]
    word = [logprob(" xyz", "d"), logprob(" c", "o")]
    assert last == [NEXT, OTHER]
    by_token = values(outcome("lambada", tmp_path, content))
    assert by_token == {"ppl": pytest.approx(math.exp(-np.mean(last)), rel=1e-5), "acc": 0.5}
    by_word = values(outcome("lambada-openai", tmp_path, content))
    assert by_word == {"ppl": pytest.approx(math.exp(-np.mean(word)), rel=1e-5), "acc": 0.0}


WIKI = " = A bc = \n \n One , two @-@ three . \n = = B = = \n Four . \n = D = \n \n Five . \n"


def test_wikitext_by_original_words(tmp_path):
    found = values(outcome("wikitext103", tmp_path, archive(**{"wikitext-103/wiki.test.tokens": WIKI})))
    text = detokenize.wikitext(WIKI)
    total = logprob(text[1:], text[0])  # without an end_of_text, the first token is not predicted
    words = len(WIKI.split()) + WIKI.count("\n")
    assert words_and_lines(WIKI) == words
    assert found["word_ppl"] == pytest.approx(math.exp(-total / words), rel=1e-4)


def test_wikitext2_as_the_paper_and_as_lm_eval(tmp_path):
    found = values(outcome("wikitext2", tmp_path, archive(**{"wikitext-2-raw/wiki.test.raw": WIKI})))
    pages = split_pages(WIKI)
    assert [page.split("\n")[0] for page in pages] == [" = A bc = ", " = D = "]
    texts = [detokenize.wikitext(page) for page in pages]
    words = sum(len(re.split(r"\s+", page)) for page in pages)
    total = sum(logprob(text[1:], text[0]) for text in texts)
    assert found["lm_eval_word_ppl"] == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert found["word_ppl"] != found["lm_eval_word_ppl"]


def test_ptb(tmp_path):
    text = " he did n't pay $ 1 N \n no one 's \n"
    assert detokenize.penn_treebank(text) == " hen't".replace("hen't", "he didn't pay $1 N\nno one's\n")
    found = values(outcome("ptb", tmp_path, b" abc n't d \n e f \n"))
    plain = " abcn't d\ne f\n"
    assert found["word_ppl"] == pytest.approx(math.exp(-logprob(plain[1:], " ") / 7), rel=1e-4)


@pytest.mark.parametrize(("name", "metric"), [("enwik8", "bits_per_byte"), ("text8", "bits_per_character")])
def test_bits_of_the_last_bytes(name, metric, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgpt.evaluation.tasks.enwik8.TEST_BYTES", 6)
    found = values(outcome(name, tmp_path, archive(**{name: b"train text abcdez"})))
    assert found[metric] == pytest.approx(-(4 * NEXT + OTHER) / math.log(2) / 6, rel=1e-5)


def test_blimp_pairs(tmp_path):
    good, bad = {"sentence_good": "abcd", "sentence_bad": "abdc"}, {"sentence_good": "acbd", "sentence_bad": "abcd"}
    found = outcome("blimp", tmp_path, jsonl(good, bad), jsonl(good, good))
    assert (values(found), found.examples) == ({"acc": 0.75}, 4)


def test_arc_easy(tmp_path):
    def row(key, *texts):
        choices = [{"text": text, "label": label} for text, label in zip(texts, "ABCD")]
        return {"id": "1", "question": {"stem": "Which", "choices": choices}, "answerKey": key}

    member = "ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Test.jsonl"
    rows = jsonl(row("B", "zz", "abcdefghij", "zzz"), row("A", "abc", "zzz"))
    assert values(outcome("arc-easy", tmp_path, archive(**{member: rows}))) == {"acc": 0.5, "acc_norm": 1.0}


def test_piqa(tmp_path):
    rows = jsonl({"goal": "Go", "sol1": "abc", "sol2": "zzz"}, {"goal": "Go", "sol1": "abc", "sol2": "zzz"})
    content = archive(**{"physicaliqa-train-dev/dev.jsonl": rows, "physicaliqa-train-dev/dev-labels.lst": "0\n1\n"})
    assert values(outcome("piqa", tmp_path, content)) == {"acc": 0.5, "acc_norm": 0.5}


def test_winogrande_scores_what_comes_after_the_option(tmp_path, monkeypatch):
    asked = []
    usual = Scorer.continuations
    monkeypatch.setattr(Scorer, "continuations", lambda self, pairs: asked.extend(pairs) or usual(self, pairs))
    row = {"qID": "1", "sentence": "So _ is here.", "option1": "ab", "option2": "cd"}
    content = archive(**{"winogrande_1.1/dev.jsonl": jsonl(row | {"answer": "1"}, row | {"answer": "2"})})
    assert values(outcome("winogrande", tmp_path, content)) == {"acc": 0.5}
    assert asked[:2] == [("So ab", " is here."), ("So cd", " is here.")]


def core_bundle():
    settings = [
        ("choices", "multiple_choice", 0),
        ("schemas", "schema", 1),
        ("texts", "language_modeling", 0),
    ]
    tasks = [
        {"label": label, "icl_task_type": kind, "dataset_uri": f"{label}.jsonl", "num_fewshot": [shots]}
        | ({"continuation_delimiter": ""} if kind != "multiple_choice" else {})
        for label, kind, shots in settings
    ]
    data = {
        "choices": jsonl(
            {"query": "Q", "choices": ["abc", "zzzz"], "gold": 0}, {"query": "Q", "choices": ["zz", "ab"], "gold": 0}
        ),
        "schemas": jsonl(
            {"context_options": ["xa", "xq"], "continuation": "bc", "gold": 0},
            {"context_options": ["aa", "bb"], "continuation": "cc", "gold": 0},
        ),
        "texts": jsonl({"context": "ab ", "continuation": "cde"}, {"context": "ab", "continuation": "cdx"}),
    }
    table = "Eval Task,Task Category,Random baseline\nchoices,x,25\nschemas,x,50\ntexts,x,0\n"
    members = {f"eval_bundle/eval_data/{name}.jsonl": content for name, content in data.items()}
    return {
        "eval_bundle/core.yaml": json.dumps({"icl_tasks": tasks}),
        "eval_bundle/eval_meta_data.csv": table,
    } | members


def test_core_is_the_mean_of_centred_accuracies(tmp_path):
    found = outcome("core", tmp_path, archive(**core_bundle()))
    assert found.details["choices"] == pytest.approx((0.5 - 0.25) / 0.75)
    assert found.details["schemas"] == pytest.approx((0.5 - 0.5) / 0.5)
    assert found.details["texts"] == pytest.approx(0.5)
    assert found.measures["core"].value == pytest.approx(np.mean([1 / 3, 0.0, 0.5]))


def test_core_draws_its_examples_by_the_number_of_the_question():
    rows = [{"number": i} for i in range(20)]
    drawn = examples_for(rows, 3, {"num_fewshot": [5]})
    assert drawn == examples_for(rows, 3, {"num_fewshot": [5]})
    assert {"number": 3} not in drawn
    assert drawn != examples_for(rows, 4, {"num_fewshot": [5]})


def test_a_limit_asks_always_the_same_questions(tmp_path):
    rows = jsonl(*({"sentence_good": "abcd" if i % 2 else "dcba", "sentence_bad": "bd"} for i in range(50)))
    one, two = (outcome("blimp", tmp_path, rows, limit=10) for _ in range(2))
    assert (one, one.examples) == (two, 10)


def test_a_limit_reads_windows_spread_over_a_text(tmp_path):
    content = archive(**{"wikitext-103/wiki.test.tokens": WIKI * 8})
    model = alphabet_model(context_length=16)
    whole = outcome("wikitext103", tmp_path, content, model=model)
    part = outcome("wikitext103", tmp_path, content, model=model, limit=20)
    assert (whole.examples > 20, part.examples) == (True, 20)
    assert values(part)["word_ppl"] == pytest.approx(values(whole)["word_ppl"], rel=0.3)
    assert part.measures["word_ppl"].standard_error > whole.measures["word_ppl"].standard_error > 0


def test_a_context_that_does_not_fit_loses_its_beginning_and_is_counted(tmp_path):
    task = written("lambada-openai", tmp_path, jsonl({"text": "a" * 40 + " bc"}, {"text": "a b"}))
    _, rows = run_task(task, Scorer(alphabet_model(context_length=16), TOKENIZER), tmp_path)
    assert [row.truncated for row in rows] == [1, 1]


def test_pairs_are_encoded_as_one_text():
    tokenizer = GPT2Tokenizer()
    ((before, after), (nothing, alone)) = encode_pairs(tokenizer, [("The cat ", "sat"), ("", "Hello")])
    assert (tokenizer.decode(before), tokenizer.decode(after)) == ("The cat", " sat")
    assert (nothing.tolist(), tokenizer.decode(alone)) == ([50256], "Hello")


def test_published_numbers_are_those_of_the_models_own_size():
    hellaswag = TASKS["hellaswag"]
    assert published(hellaswag, "acc_token", GPTConfig.preset("gpt2")).values[0] == 0.2955
    assert published(hellaswag, "acc_token", GPTConfig.preset("gpt2", position="rotary", num_kv_heads=4)) is not None
    assert published(hellaswag, "acc_token", GPTConfig.preset("tiny")) is None
    assert published(hellaswag, "acc", GPTConfig.preset("gpt2-xl")).values[3] == 0.4004


def test_every_task_says_what_it_is():
    for task in TASKS.values():
        assert len(task.protocol) > 40
        assert task.files
        for file in task.files:
            assert file.url.startswith("http")
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_wikitext_is_detokenized_as_lm_eval_does_it():
    theirs = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext").wikitext_detokenizer
    pieces = [
        " , ",
        " . ",
        "( foo )",
        " @-@ ",
        "[ a ]",
        '" b c "',
        "' d '",
        "s '",
        " 's",
        " N ",
        "= = T = =",
        " = A = \n",
    ]
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = " ".join(rng.choice(pieces, 12))
        assert detokenize.wikitext(text) == theirs({"page": text})


def test_the_error_of_a_mean_is_the_error_of_a_ratio_with_equal_counts():
    numbers = [1.0, 4.0, 2.0, 8.0]
    assert mean(numbers).standard_error == pytest.approx(ratio_error(np.array(numbers), np.ones(4)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (jsonl({"text": "a b"}) + b'{"text": "c', r"line 2 of lambada_test.jsonl is not JSON"),
        (b"", "lambada_test.jsonl is empty"),
        (b'{"text": "\xff"}', "lambada_test.jsonl is not UTF-8"),
        (jsonl({"text": "a \u00fc"}), "task lambada: character 'ü' is not among"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        outcome("lambada", tmp_path, content)


def test_a_file_of_another_hash_is_refused(tmp_path):
    (tmp_path / "lambada_test.jsonl").write_bytes(jsonl({"text": "a b"}))
    with pytest.raises(UserError, match="is not the published file: its SHA-256 is .* not 4aa8d02cd17c"):
        run_task(TASKS["lambada"], Scorer(MODEL, TOKENIZER), tmp_path)


def test_a_missing_file_is_named_with_its_address_and_hash(tmp_path):
    with pytest.raises(UserError, match="has no lambada_test.jsonl: get it from https://openaipublic.* 4aa8d02c"):
        run_task(TASKS["lambada"], Scorer(MODEL, TOKENIZER), tmp_path)


def test_a_damaged_archive_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no whole winogrande_1.1/dev.jsonl"):
        outcome("winogrande", tmp_path, archive(**{"winogrande_1.1/dev.jsonl": b"{}"})[:-30])


def test_an_unpacked_file_is_taken_with_a_word(tmp_path, capsys):
    (tmp_path / "dev.jsonl").write_bytes(jsonl({"sentence": "So _ is.", "option1": "a", "option2": "b", "answer": "1"}))
    run_task(TASKS["winogrande"], Scorer(MODEL, TOKENIZER), tmp_path)
    assert "is taken as it is: only the hash of winogrande_1.1.zip is published" in capsys.readouterr().err


def test_without_a_network_the_address_and_the_hash_are_told(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(UserError, match=r"hellaswag_val.jsonl could not be downloaded \(no route to host\).*0aa3b8884"):
        run_task(TASKS["hellaswag"], Scorer(MODEL, TOKENIZER))


def test_a_file_whose_hash_nobody_published_is_not_downloaded():
    task = dataclasses.replace(TASKS["core"], files=(dataclasses.replace(TASKS["core"].files[0], sha256=None),))
    with pytest.raises(UserError, match="eval_bundle.zip is not downloaded, since no SHA-256 of it is published"):
        run_task(task, Scorer(MODEL, TOKENIZER))


def test_a_run_asks_the_same_questions_each_time(tmp_path, monkeypatch):
    rows = jsonl(*({"sentence_good": "abcd" if i % 2 else "dcba", "sentence_bad": "bd"} for i in range(20)))
    monkeypatch.setitem(TASKS, "blimp", written("blimp", tmp_path, rows))
    metrics = TaskMetrics.create("blimp", TOKENIZER, limit=6, folder=tmp_path)
    assert (
        metrics(MODEL) == metrics(MODEL) == {"blimp_acc": outcome("blimp", tmp_path, rows, limit=6).measures["acc"][0]}
    )
    (tmp_path / "adjunct_island.jsonl").write_bytes(rows[:-5])
    with pytest.raises(UserError, match="adjunct_island.jsonl is not the published file"):
        TaskMetrics.create("blimp", TOKENIZER, folder=tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [("helaswag", "there is no task 'helaswag'; did you mean 'hellaswag'?"), ("xyzzy", "known: hellaswag, lambada")],
)
def test_an_unknown_task_is_refused(names, message):
    with pytest.raises(UserError, match=re.escape(message)):
        find_tasks(names)
