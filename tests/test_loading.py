import pickle
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

import jaxgpt
from jaxgpt.config import GPTConfig
from jaxgpt.data import CharTokenizer, GPT2Tokenizer, eval_batches
from jaxgpt.data.hf_tokenizer import character_json
from jaxgpt.errors import UserError
from jaxgpt.evaluation.scoring import rolling_loglikelihood
from jaxgpt.loading import check_vocabulary, fingerprint, save
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import named_parameters
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import shard
from jaxgpt.training.run import read_run
from tests.runs import jaxgpt as jaxgpt_command
from tests.runs import lines, quick_compilation, state


@pytest.fixture(scope="module")
def model(trained):
    return jaxgpt.load(trained)


def test_a_run_is_loaded_as_its_newest_checkpoint(trained, model):
    saved = {name: value for name, value in state(trained).items() if name.startswith(".model")}
    loaded = jax.tree.leaves(model)
    assert len(saved) == len(loaded)
    for one, other in zip(saved.values(), loaded, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.config == read_run(trained).config.model


def test_the_loaded_model_has_the_validation_loss_of_the_last_line(trained, model):
    run = read_run(trained)
    length = run.config.model.context_length
    windows = eval_batches(run.data().validation, run.config.batch_size, length, run.config.eval_batches)
    with quick_compilation():
        totals = rolling_loglikelihood(model, list(windows.reshape(-1, length + 1)))
    assert -np.mean(totals) / length == pytest.approx(lines(trained)[-1]["val_loss"], rel=1e-5)


def test_the_tokenizer_of_a_run_is_its_own(trained, model):
    tokenizer = jaxgpt.load_tokenizer(str(trained))
    assert (tokenizer.name, tokenizer.vocab_size) == ("char", model.config.vocab_size)
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc"


def test_a_config_may_change_where_the_parameters_fit(trained, model):
    changed = jaxgpt.load(trained, window=8)
    assert (changed.config.window, changed.blocks[0].attn.window) == (8, 8)
    here, there = named_parameters(changed), named_parameters(model)
    assert all((here[name] == there[name]).all() for name in there)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 2}, "num_layers=2 cannot come from weights with num_layers=1"),
        ({"d_model": 64}, "d_model=64 cannot come from weights with d_model=32"),
        ({"widow": 8}, "'widow' is not a field of GPTConfig; did you mean 'window'"),
        ({"window": 0}, "window=0 sees nothing"),
    ],
    ids=str,
)
def test_a_change_that_needs_other_parameters_is_refused(trained, changes, message):
    with pytest.raises(ValueError, match=message):
        jaxgpt.load(trained, **changes)


@pytest.fixture
def exported(tmp_path):
    """A function that exports a model of so many tokens without a tokenizer."""

    def export(size):
        from converters import save_pretrained

        config = GPTConfig(vocab_size=size, context_length=8, num_layers=1, num_heads=1, d_model=8)
        save_pretrained(GPT(config, rngs=nnx.Rngs(0)), tmp_path / "model")
        for file in (tmp_path / "model").iterdir():
            if "token" in file.name or file.name in ("vocab.json", "merges.txt"):
                file.unlink()
        return tmp_path / "model"

    return export


def test_a_folder_without_a_tokenizer_is_not_taken_for_gpt2(exported, tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer .*vocabulary of 61 is not GPT-2's.*--tokenizer"):
        jaxgpt.load_tokenizer(exported(61))
    with pytest.raises(ValueError, match="does not exist"):
        jaxgpt.load_tokenizer(tmp_path / "mistyped" / "path")


def test_gpt2s_tokenizer_without_files_needs_exactly_its_vocabulary_and_is_said(exported, capsys):
    assert jaxgpt.load_tokenizer(exported(50257)).name == "gpt2"
    assert "has GPT-2's number of tokens, so GPT-2's is used" in capsys.readouterr().err


def test_a_folders_own_tokenizer_is_taken(exported, capsys):
    folder = exported(50257)
    (folder / "tokenizer.json").write_text(character_json("A?B"))
    assert jaxgpt.load_tokenizer(folder).encode("AB").tolist() == [0, 2]
    assert jaxgpt.load_tokenizer(folder / "model.safetensors").encode("AB").tolist() == [0, 2]
    assert capsys.readouterr().err == ""


def test_a_tokenizer_of_more_tokens_than_the_model_has_is_another_models():
    config = GPTConfig(vocab_size=61, context_length=8, num_layers=1, num_heads=1, d_model=8)
    check_vocabulary(CharTokenizer("ab"), config, "here")
    with pytest.raises(UserError, match="gpt2 tokenizer has 50257 tokens and here 61"):
        check_vocabulary(GPT2Tokenizer(), config, "here")


def test_nanogpts_characters_are_found_where_its_own_sampler_looks(tmp_path):
    torch = pytest.importorskip("torch")
    from converters import save_pretrained

    config = GPTConfig(vocab_size=3, context_length=8, num_layers=1, num_heads=1, d_model=8, activation="gelu")
    save_pretrained(GPT(config, rngs=nnx.Rngs(0)), tmp_path / "out", "nanogpt")
    (tmp_path / "data" / "poems").mkdir(parents=True)
    itos = dict(enumerate("xyz"))
    (tmp_path / "data" / "poems" / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 3, "itos": itos}))
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    torch.save(checkpoint | {"config": {"dataset": "poems"}}, tmp_path / "out" / "ckpt.pt")
    for source in (tmp_path / "out", tmp_path / "out" / "ckpt.pt"):
        assert jaxgpt.load_tokenizer(source).encode("zx").tolist() == [2, 0]
    (tmp_path / "data" / "poems" / "meta.pkl").unlink()
    with pytest.raises(UserError, match="vocabulary of 3 is not GPT-2's"):
        jaxgpt.load_tokenizer(tmp_path / "out" / "ckpt.pt")


VARIANTS = {
    "mixed windows": {"window": (8, None)},
    "no positions": {"position": "none", "num_kv_heads": 2},
    "untied, without biases": {"tie_embeddings": False, "bias": False, "activation": "relu"},
    "rotary, scaled by layer": {"position": "rotary", "scale_attention_by_layer": True, "rope_theta": 77.0},
    "of training": {"dropout": 0.1, "scan_layers": True, "dtype": "bfloat16", "attention": "xla"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_model_is_saved_and_loaded_to_the_last_bit(tmp_path, variant):
    model = GPT(GPTConfig.preset("tiny", **VARIANTS[variant]), rngs=nnx.Rngs(3))
    save(model, tmp_path / "model")
    back = jaxgpt.load(tmp_path / "model")
    assert back.config == model.config
    one, other = named_parameters(model), named_parameters(back)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_saved_model_has_its_tokenizer(tmp_path):
    tokenizer = CharTokenizer("abc \n")
    model = GPT(GPTConfig.preset("tiny", vocab_size=5), rngs=nnx.Rngs(0))
    save(model, tmp_path / "model", tokenizer)
    found = jaxgpt.load_tokenizer(tmp_path / "model")
    assert found.decode(found.encode("a cab\n")) == "a cab\n"
    np.testing.assert_array_equal(found.encode("a cab\n"), tokenizer.encode("a cab\n"))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_and_nothing_is_written(tmp_path):
    model = GPT(GPTConfig.preset("tiny", vocab_size=3), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="has 5 tokens"):
        save(model, tmp_path / "model", CharTokenizer("abc \n"))
    assert not any(tmp_path.iterdir())


def test_a_saved_model_is_sharded_over_a_mesh_as_training_shards_it(tmp_path):
    model = GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
    save(model, tmp_path / "model")
    mesh = make_mesh(fsdp=8)
    loaded, sharded = jaxgpt.load(tmp_path / "model", mesh=mesh, num_kv_heads=2), shard(model, mesh)
    for name, leaf in named_parameters(loaded).items():
        assert leaf.sharding == named_parameters(sharded)[name].sharding, name


def test_the_mesh_and_dtype_of_a_run(trained):
    model = jaxgpt.load(trained, mesh=make_mesh(data=4, fsdp=2), dtype="bfloat16")
    assert model.config.dtype == "bfloat16"
    assert len(model.embed[...].sharding.device_set) == 8


def test_a_folder_above_or_within_a_run_names_the_run(trained):
    with pytest.raises(UserError, match=f"a folder of 1 runs, not a model: name one of them, such as {trained}"):
        jaxgpt.load(trained.parent)
    newest = max(int(path.name) for path in (trained / "checkpoints").iterdir() if path.name.isdigit())
    for inside in (trained / "checkpoints", trained / "checkpoints" / str(newest), trained / "samples"):
        with pytest.raises(UserError, match=f"lies within a run: name the run {trained}, .* by --step"):
            jaxgpt.load(inside)


def test_a_step_is_of_a_run(tmp_path):
    save(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0)), tmp_path / "model")
    with pytest.raises(UserError, match="step=4 names a checkpoint of a run, and .* is no run"):
        jaxgpt.load(tmp_path / "model", step=4)


def test_a_trained_run_is_exported_with_its_characters(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    outcome = jaxgpt_command("convert", str(trained), str(tmp_path / "out"))
    assert outcome.code == 0, outcome
    tokenizer = jaxgpt.load_tokenizer(trained)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("abc")["input_ids"] == tokenizer.encode("abc").tolist()
    assert theirs.decode(theirs("abc")["input_ids"]) == "abc"


def test_a_checkpoint_of_a_run_is_named_by_step_or_as_the_best(trained):
    steps = sorted(int(path.name) for path in (trained / "checkpoints").iterdir() if path.name.isdigit())
    best = min((line for line in lines(trained) if line.get("step") in steps), key=lambda line: line["val_loss"])
    by_name, by_step = (named_parameters(jaxgpt.load(trained, step=step)) for step in ("best", best["step"]))
    assert all(np.array_equal(by_name[name], by_step[name]) for name in by_name)
    with pytest.raises(UserError, match="no checkpoint of step 123456"):
        jaxgpt.load(trained, step=123456)


def test_convert_takes_a_step(trained, tmp_path):
    step = max(int(path.name) for path in (trained / "checkpoints").iterdir() if path.name.isdigit())
    assert jaxgpt_command("convert", trained, tmp_path / "out", "--step", step).code == 0
    assert jaxgpt_command("convert", trained, tmp_path / "none", "--step", 123456).code == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["run", "folder", "file"])
def test_the_fingerprint_of_a_source_is_that_of_its_weights_wherever_it_lies(kind, trained, tmp_path):
    save(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0)), tmp_path / "model")
    source = shutil.copytree(trained if kind == "run" else tmp_path / "model", tmp_path / "source")
    copy = shutil.copytree(source, tmp_path / "elsewhere" / "copy")
    newest = max((source / "checkpoints").iterdir(), key=lambda step: int(step.name)) if kind == "run" else source
    weights = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    named, other = (weights, copy / weights.relative_to(source)) if kind == "file" else (source, copy)
    before = fingerprint(named)
    assert fingerprint(other) == before
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(named) != before
