import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data import CharTokenizer, GPT2Tokenizer
from jaxgpt.inference.text_stream import TextStream

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(deadline=None, max_examples=60)
@given(TEXT, TEXT, st.data())
def test_the_parts_are_the_text_and_no_part_changes_again(before, text, data):
    tokenizer = GPT2Tokenizer()
    prompt, ids = tokenizer.encode(before), tokenizer.encode(text).tolist()
    stream, told, at = TextStream(tokenizer, prompt.tolist()), "", 0
    while at < len(ids):
        size = data.draw(st.integers(1, 5))
        told += stream.add(ids[at : at + size])
        assert text.startswith(told)
        at += size
    assert told + stream.end() == text


def test_a_character_of_several_tokens_is_told_when_it_is_whole():
    tokenizer = GPT2Tokenizer()
    ids = tokenizer.encode("a🤖b").tolist()
    assert len(ids) > 4
    stream = TextStream(tokenizer)
    assert [part for token in ids if (part := stream.add([token]))] == ["a", "🤖", "b"]
    broken = TextStream(tokenizer)
    assert broken.add(ids[:2]) == "a"
    assert broken.end() == "\ufffd"


def test_a_stop_text_across_tokens_ends_the_text():
    tokenizer = CharTokenizer("abcde")
    for size in (1, 2, 3, 10):
        stream, ids = TextStream(tokenizer, stop=["cde", "dd"]), tokenizer.encode("abcdacdeab").tolist()
        parts = [stream.add(ids[at : at + size]) for at in range(0, 10, size)]
        assert ("".join(parts) + stream.end(), stream.stopped) == ("abcda", True)


def test_what_may_become_a_stop_text_is_told_where_it_does_not():
    tokenizer = CharTokenizer("abcde")
    stream = TextStream(tokenizer, stop=["cde"])
    assert [stream.add([i]) for i in tokenizer.encode("acdacd").tolist()] == ["a", "", "", "cda", "", ""]
    assert (stream.end(), stream.stopped) == ("cd", False)
    long = TextStream(tokenizer, np.zeros(100, int).tolist())
    assert "".join(long.add([i % 5]) for i in range(200)) == "abcde" * 40
