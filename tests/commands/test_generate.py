"""`jaxgpt generate` as a user meets it."""

import io
import json
import os
import sys

import numpy as np
import pytest

from jaxgpt.data import CharTokenizer
from jaxgpt.loading import load_tokenizer
from tests.runs import STEPS, jaxgpt

SHORT = ("--max-new-tokens", 16, "--temperature", 0.8)


def text_of(*flags):
    outcome = jaxgpt("generate", *flags)
    assert outcome.code == 0, outcome
    return outcome.out


def test_a_prompt_comes_from_a_file_or_standard_input(trained, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("abc d")
    expected = text_of(trained, "--prompt", "abc d", *SHORT)
    assert expected.startswith("abc d")
    assert text_of(trained, "--prompt", f"@{tmp_path / 'prompt.txt'}", *SHORT) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("abc d"))
    assert text_of(trained, "--prompt", "-", *SHORT) == expected
    assert "No such file" in jaxgpt("generate", trained, "--prompt", "@nowhere").err


def test_a_sample_longer_than_the_context_slides_and_that_is_said_once(trained):
    outcome = jaxgpt("generate", trained, "--prompt", "abcd", "--max-new-tokens", 100, "--num-samples", 2)
    assert len(outcome.out.split("\n" + "─" * 80 + "\n")[0]) == 104
    assert outcome.err == "past 32 tokens the text goes on from the last 16 (--no-slide refuses that)\n"


def test_json_lines_tell_what_the_model_thought(trained):
    flags = (trained, "--prompt", "abcd", *SHORT, "--num-samples", 2)
    lines = [json.loads(line) for line in text_of(*flags, "--json").splitlines()]
    plain = text_of(*flags).split("\n" + "─" * 80 + "\n")
    assert [line["prompt"] + line["text"] for line in lines] == [part.removesuffix("\n") for part in plain]
    for line in lines:
        assert "".join(token["text"] for token in line["tokens"]) == line["text"]
        for token in line["tokens"]:
            best = [one["logprob"] for one in token["top"]]
            assert len(best) == 5
            assert best == sorted(best, reverse=True)
            assert token["logprob"] <= best[0] <= 0
            assert np.exp(best).sum() <= 1.0001


def test_a_sample_ends_before_a_stop_text(trained):
    whole = text_of(trained, "--prompt", "abcd", *SHORT).removesuffix("\n")
    stop = whole[9:12]
    assert text_of(trained, "--prompt", "abcd", *SHORT, "--stop", stop) == whole[: whole.index(stop, 4)] + "\n"


def test_another_tokenizer_is_taken_or_refused(trained, tmp_path):
    from jaxgpt.data.hf_tokenizer import write_tokenizer

    own = load_tokenizer(trained)
    write_tokenizer(CharTokenizer(own.characters[::-1]), tmp_path)
    mirrored = dict(zip(own.characters, own.characters[::-1], strict=True))
    expected = text_of(trained, "--prompt", "abcd", *SHORT).removesuffix("\n")
    found = text_of(trained, "--prompt", "".join(mirrored[c] for c in "abcd"), *SHORT, "--tokenizer", tmp_path)
    assert "".join(mirrored[c] for c in found.removesuffix("\n")) == expected
    refused = jaxgpt("generate", trained, "--tokenizer", "gpt2")
    assert (refused.code, refused.out) == (2, "")
    assert f"the gpt2 tokenizer has 50257 tokens and {trained} 65" in refused.err


def test_line_after_line(trained, monkeypatch):
    lines = ["abcd", "/temperature 0", "abcd", "abcd", "/temperature x", "/colour 3", "/top-k 0", "/quit", "abcd"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    outcome = jaxgpt("generate", trained, "--interactive", "--max-new-tokens", 16)
    assert outcome.code == 0
    greedy = text_of(trained, "--prompt", "abcd", "--temperature", 0, "--max-new-tokens", 16)[4:]
    assert outcome.out.endswith(greedy + greedy)
    first, second, third = outcome.err.splitlines()
    assert first == "/temperature needs a number, not 'x'"
    assert second.startswith("/colour is not known; there are /temperature")
    assert third == "top_k=0 keeps no token; use at least 1"


def test_control_c_keeps_what_was_printed(trained, monkeypatch):
    from jaxgpt.inference.texts import Texts

    pieces = Texts.pieces

    def interrupted(self, *arguments, **settings):
        for number, piece in enumerate(pieces(self, *arguments, **settings)):
            if number == 2:
                raise KeyboardInterrupt
            yield piece

    whole = text_of(trained, "--prompt", "abcd", "--max-new-tokens", 28)
    monkeypatch.setattr(Texts, "pieces", interrupted)
    outcome = jaxgpt("generate", trained, "--prompt", "abcd", "--max-new-tokens", 28)
    assert outcome.code == 130
    assert outcome.out == whole[: 4 + 17] + "\n"


def test_standard_output_that_is_not_utf8_gets_what_it_can_hold(tmp_path, trained, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    from jaxgpt.commands.generate import _write, write_safely

    write_safely()
    _write("naïve")
    assert out.buffer.getvalue() == b"na?ve"


@pytest.mark.parametrize("step", ["later", "-1"])
def test_a_step_that_is_none(trained, step):
    assert f"--step {step} is not latest, best or a number" in jaxgpt("generate", trained, "--step", step).err


def test_the_sample_of_a_run_has_the_length_it_says(trained):
    assert len((trained / "samples" / f"{STEPS}.txt").read_text()) == 17


def test_a_prompt_that_is_no_text_of_a_file_is_refused_at_once(trained, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        assert "it is a pipe or device, not a file" in jaxgpt("generate", trained, "--prompt", f"@{path}").err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    outcome = jaxgpt("generate", trained, "--prompt", "-")
    assert (outcome.code, outcome.err) == (2, "jaxgpt: --prompt -: standard input is not text in utf-8; convert it\n")


def test_a_prompt_without_an_end_is_refused(trained, monkeypatch):
    monkeypatch.setattr("jaxgpt.commands.generate.LONGEST_PROMPT", 1000)
    with open("/dev/zero", encoding="utf-8") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        outcome = jaxgpt("generate", trained, "--prompt", "-")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "jaxgpt: --prompt -: standard input has more than 1,000 characters: give less\n"


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_more_samples_than_the_memory_holds_are_refused_at_once(trained, how):
    outcome = jaxgpt("generate", trained, "--prompt", "ab", "--num-samples", 10**9, *how)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--num-samples 1000000000 needs at least" in outcome.err
