"""What belongs to a model besides its weights is carried through a conversion, or its loss is told."""

import json

import pytest

from converters import load_pretrained, save_pretrained
from converters.arguments import Convert
from converters.commands import convert
from converters.companions import TOKENIZER_FILES, _matches
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError

TINY = GPTConfig.preset("tiny")


@pytest.fixture
def source(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "one")
    return tmp_path / "one"


def fields(folder, file="config.json"):
    return json.loads((folder / file).read_text())


def test_a_word_piece_vocabulary_is_carried(make_model, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_pretrained(make_model(GPTConfig.preset("tiny", vocab_size=12)), tmp_path / "one")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"]
    (tmp_path / "one" / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "one" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    convert(Convert(str(tmp_path / "one"), tmp_path / "two"))
    for name in ("one", "two"):
        assert transformers.AutoTokenizer.from_pretrained(tmp_path / name)("a b")["input_ids"] == [2, 5, 6, 3]


def test_every_tokenizer_file_of_transformers_is_carried():
    pytest.importorskip("transformers")
    from pathlib import Path

    names = ["vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"]
    names += ["entity_vocab.json", "bpe.codes", "word_shape.json", "vocab-tgt.json", "target_vocab.json", "target.spm"]
    names += ["spm_char.model", "spm.model", "sentencepiece.model", "normalizer.json", "emoji.json", "dict.txt"]
    names += ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "qwen.tiktoken", "added_tokens.json"]
    assert [name for name in names if not _matches(Path(name), TOKENIZER_FILES)] == []


def test_special_ids_and_generation_settings_are_carried(source, tmp_path):
    old = fields(source) | {"bos_token_id": 5, "eos_token_id": [7, 8], "pad_token_id": 6, "sep_token_id": 9}
    (source / "config.json").write_text(json.dumps(old))
    settings = {"eos_token_id": [7, 8], "bos_token_id": 5, "do_sample": True, "top_k": 17}
    (source / "generation_config.json").write_text(json.dumps(settings))
    convert(Convert(str(source), tmp_path / "two", position="rotary"))
    new = fields(tmp_path / "two")
    assert new["model_type"] == "starcoder2"
    ids = {name: value for name, value in new.items() if name.endswith("_token_id")}
    assert ids == {"bos_token_id": 5, "eos_token_id": [7, 8], "pad_token_id": 6, "sep_token_id": 9}
    assert fields(tmp_path / "two", "generation_config.json").items() >= settings.items()


def test_ids_that_a_config_leaves_out_stay_what_transformers_takes_them_for(source, tmp_path):
    old = {name: value for name, value in fields(source).items() if not name.endswith("_token_id")}
    (source / "config.json").write_text(json.dumps(old | {"top_p": 0.5}))
    (source / "generation_config.json").unlink()
    convert(Convert(str(source), tmp_path / "two"))
    assert fields(tmp_path / "two")["eos_token_id"] == 50256
    assert fields(tmp_path / "two", "generation_config.json")["top_p"] == 0.5


def test_a_model_whose_tokenizer_is_not_known_has_no_special_ids(make_model, tmp_path):
    save_pretrained(make_model(GPTConfig.preset("tiny", vocab_size=50304)), tmp_path / "out")
    assert fields(tmp_path / "out")["eos_token_id"] is None


def test_what_is_left_behind_is_told(source, tmp_path, capsys):
    (source / "tokenization_mine.py").write_text("code")
    (source / "training_args.bin").write_bytes(b"")
    convert(Convert(str(source), tmp_path / "two"))
    assert "left behind: tokenization_mine.py" in capsys.readouterr().out


def test_a_link_to_elsewhere_is_not_copied(source, tmp_path):
    (tmp_path / "secret").write_text("{}")
    for name in ("tokenizer.json", "generation_config.json"):
        (source / name).unlink(missing_ok=True)
        (source / name).symlink_to(tmp_path / "secret")
        with pytest.raises(UserError, match=f"{name} is a link to .*secret, outside its folder"):
            convert(Convert(str(source), tmp_path / "two"))
        (source / name).unlink()
    assert not (tmp_path / "two").exists()


def test_a_link_to_itself_is_refused(source, tmp_path):
    (source / "tokenizer.json").unlink(missing_ok=True)
    (source / "tokenizer.json").symlink_to("tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read \(Too many levels of symbolic links\)"):
        convert(Convert(str(source), tmp_path / "two"))
    assert not (tmp_path / "two").exists()


def test_a_name_with_brackets_is_a_name(source, tmp_path, capsys):
    convert(Convert(str(source), tmp_path / "out[v2]"))
    assert "out[v2] holds a gpt2 model" in capsys.readouterr().out
    assert load_pretrained(tmp_path / "out[v2]").config.num_layers == 2


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(source, tmp_path, capsys):
    convert(Convert(str(source), tmp_path / "two", num_kv_heads=1, dry_run=True, shard_size="20KB", dtype="bf16"))
    printed = capsys.readouterr().out
    assert "would hold a gpt_bigcode model" in printed
    assert "num_kv_heads" in printed
    planned = [line.split() for line in printed.splitlines() if ".safetensors" in line]
    assert not (tmp_path / "two").exists()
    convert(Convert(str(source), tmp_path / "two", num_kv_heads=1, shard_size="20KB", dtype="bf16"))
    for name, size, _ in planned:
        assert 0 < (tmp_path / "two" / name).stat().st_size - int(size.replace(",", "")) < 3000
    assert len(planned) == len(list((tmp_path / "two").glob("*.safetensors"))) > 1


def test_another_activation_is_a_flag(source, tmp_path):
    with pytest.raises(UserError, match="--activation gelu switches to it"):
        convert(Convert(str(source), tmp_path / "two", architecture="nanogpt"))
    pytest.importorskip("torch")
    convert(Convert(str(source), tmp_path / "two", architecture="nanogpt", activation="gelu"))
    assert load_pretrained(tmp_path / "two").config.activation == "gelu"


@pytest.mark.parametrize("text", ["2", "GB", "-1GB", "0MB", "1TBs", "1e400GB", "", "5 parsecs"])
def test_a_size_that_is_none_is_refused(source, tmp_path, text):
    with pytest.raises(UserError, match="is not a size of files"):
        convert(Convert(str(source), tmp_path / "two", shard_size=text))
