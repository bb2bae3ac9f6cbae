"""The command line as a user meets it: what it prints, what it writes, how it refuses."""

import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src import xla_bridge

import jaxgpt as package
from jaxgpt.cli import COMMANDS, CURES, OUT_OF_MEMORY, main
from jaxgpt.evaluation.evaluate import evaluate
from jaxgpt.evaluation.tasks.run import TASKS
from jaxgpt.training.run import read_run
from jaxgpt.training.sample import folded
from tests.runs import EVAL_EVERY, STEPS, jaxgpt, lines, quick_compilation, start, state, steps_saved, write_text
from tests.training.test_metrics import scalars


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text.txt")


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the trained run."""
    return shutil.copytree(trained, tmp_path / "run")


def refusal(*arguments: object) -> str:
    """The message of a command that must refuse: code 2, nothing else printed, no traceback."""
    outcome = jaxgpt(*arguments)
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    return outcome.err


def one_line(*arguments: object) -> str:
    message = refusal(*arguments)
    assert message.startswith("jaxgpt: ")
    assert message.count("\n") == 1
    return message


def spelled(value: object) -> str:
    """The name of a case."""
    return value if isinstance(value, str) else " ".join(map(str, value))


def words(message: str) -> str:
    """A boxed message without its box."""
    return " ".join(message.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_without_a_command_the_usage_is_shown(arguments):
    outcome = jaxgpt(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: jaxgpt COMMAND")
    assert all(f"\n  {command} " in outcome.out for command in ("train", "generate", "evaluate"))


def test_the_version_is_shown():
    assert jaxgpt("--version").out.startswith("jaxgpt 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "there is no command 'trian'; did you mean 'train'?"),
        (("xyzzy",), "there is no command 'xyzzy'; see --help"),
        (("train", "--steps", "3", "tinny"), "there is no preset 'tinny'; did you mean 'tiny'?"),
        (
            ("train", "--lr", "3e-4", "--bf16"),
            "there is no --lr here: use --optimizer.learning-rate; there is no --bf16",
        ),
        (("train", "--config", "nowhere.toml"), "--config nowhere.toml cannot be read: No such file or directory"),
        (("train", "tinny"), "there is no preset 'tinny'; did you mean 'tiny'?"),
        (("train", "xyzzy"), "there is no preset 'xyzzy'; known: quickstart, shakespeare-char-cpu"),
        (("train", "--resume"), "--resume needs a value: the run folder to go on with"),
        (("train", "--resume", ""), "--resume needs a value: the run folder to go on with"),
        (("train", "--resume", "a", "--resume=b"), "--resume is given 2 times, as b and a: give one"),
        (("train", "tiny", "--resume", "r"), "--resume r knows its settings; leave out tiny"),
        (("train", "--resume", "nowhere"), "nowhere is not a run folder"),
        (("train", "tiny", "--data.source", "nowhere.txt"), "'nowhere.txt' does not exist"),
        (("train", "tiny", "--model.attention", "cudnn"), "attention='cudnn' cannot run here"),
        (("evaluate", "x", "--batch-size", "0"), "--batch-size 0 computes nothing"),
        (("evaluate", "x"), "x is not a run of ours, which would know its text: name one by --data"),
        (("generate", "x", "--num-samples", "0"), "--num-samples 0 asks for nothing"),
    ],
    ids=spelled,
)
def test_what_is_not_known_is_refused_in_one_line(arguments, message, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "cudnn" in arguments:
        arguments = (*arguments, "--data.source", text)
    assert message in one_line(*arguments)
    assert list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model.num-kv-head", "2"), "Perhaps you meant: --model.num-kv-heads"),
        (("--optimizer.learning-rat", "1"), "--optimizer.learning-rate FLOAT"),
        (("--steps", "many"), "--steps"),
        (("--data.source", ""), "data.source='' names nothing: give stdlib, shakespeare, or the path of a text"),
        (("--steps", "-1"), "steps=-1 must not be below 0"),
        (("--model.num-heads", "3"), "d_model=32 is not a multiple of num_heads=3; use one of 1, 2, 4"),
        (("--model.num-kv-heads", "3"), "num_heads=4 is not a multiple of num_kv_heads=3"),
        (("--model.window", "0"), "window=0 sees nothing"),
        (("--model.position", "learnt"), "learned"),
        (("--microbatches", "3"), "batch_size=8 is not a multiple of microbatches=3"),
        (("--data.tokenizer", "bytes"), "--data.tokenizer"),
    ],
    ids=spelled,
)
def test_a_wrong_flag_is_refused_with_the_cure(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in words(refusal("train", "tiny", *flags))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: give a text file"),
        (b"  \n \n", "is empty: give a text file"),
        (b"\x00\x01\x02", "is not text in UTF-8"),
        (b"\xff\xfe\xfa", "is not text in UTF-8"),
        (b"too short", "the text has"),
        (b"abc" * 50, "the text has"),  # long enough for training, not for validation
        (b"abcdefgh" * 200, "the char tokenizer of '{path}' has 8 tokens and the model 65; use --model.vocab-size 8"),
    ],
    ids=["empty", "blank", "binary", "not UTF-8", "short", "short held-back part", "other characters"],
)
def test_a_text_that_cannot_be_trained_on_is_refused_and_nothing_written(content, message, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    vocabulary = ("--model.vocab-size", 65) if content == b"abcdefgh" * 200 else ()
    found = one_line("train", "tiny", "--run", tmp_path / "run", "--data.source", path, *vocabulary)
    assert message.format(path=path) in found
    assert not (tmp_path / "run").exists()


def test_a_file_that_cannot_be_written_is_one_line(text, tmp_path):
    assert "Not a directory" in one_line("train", "tiny", "--data.source", text, "--run", text / "run")


@pytest.mark.parametrize(
    "flags", [("--model.d-model", "400000"), ("--model.num-layers", "9999", "--model.d-model", "4000")]
)
def test_a_model_that_no_machine_holds_is_refused_within_seconds(flags, tmp_path):
    text, began = write_text(tmp_path / "text.txt"), time.monotonic()
    message = one_line("train", "tiny", *flags, "--data.source", text, "--run", tmp_path / "run")
    assert "the parameters and the optimizer's state need" in message
    assert time.monotonic() - began < 20
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 85899345920 bytes."),
        jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),  # torch's
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=["host", "device", "CUDA", "torch", "system"],
)
def test_a_command_without_memory_says_what_helps(command, error, monkeypatch):
    def fail(_):
        raise error

    monkeypatch.setattr(f"jaxgpt.commands.{command}.main", fail)
    assert one_line(command) == f"jaxgpt: out of memory: {OUT_OF_MEMORY[command]}\n"


def test_a_device_that_is_not_here_is_one_line(monkeypatch):
    def fail(_):
        raise RuntimeError("Unable to initialize backend 'cuda': no GPU\nand more")

    monkeypatch.setattr("jaxgpt.commands.generate.main", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert one_line("generate").startswith("jaxgpt: JAX_PLATFORMS=cuda: Unable to initialize backend 'cuda': no GPU;")


def test_a_gpu_that_jax_was_told_to_use_and_is_not_here_is_one_line(monkeypatch, request):
    request.addfinalizer(lambda usual=jax.config.jax_platforms: jax.config.update("jax_platforms", usual))
    jax.config.update("jax_platforms", "cuda")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(xla_bridge, "_backends", {})
    monkeypatch.setattr(xla_bridge, "_default_backend", None)
    monkeypatch.setattr(xla_bridge.hardware_utils, "has_visible_nvidia_gpu", lambda: False)
    monkeypatch.setattr("jaxgpt.commands.generate.main", lambda _: xla_bridge.backends())
    assert one_line("generate") == "jaxgpt: JAX_PLATFORMS=cuda: no such device; unset it, or name what is here\n"


@pytest.mark.parametrize("command", [("train", "tiny", "--data.source"), ("generate", "~no-user-has-this-name/run")])
def test_a_home_that_no_user_has_is_one_line(command):
    prompt = ("--prompt",) if command[0] == "generate" else ()
    assert "no such user" in one_line(*command, *prompt, "@~no-user-has-this-name/text"[not prompt :])


def test_a_name_too_long_is_one_line(text):
    for command in (("data", "prepare", text), ("data", "tokenizer", text, "--vocab-size", 300)):
        assert "File name too long; choose a shorter name" in one_line(*command[:3], "x" * 300, *command[3:])


@pytest.mark.parametrize("number", CURES)
def test_a_file_that_the_system_refuses_is_one_line_with_the_cure(number, monkeypatch):
    def fail(_):
        raise OSError(number, os.strerror(number), "place")

    monkeypatch.setattr("jaxgpt.commands.convert.main", fail)
    assert one_line("convert") == f"jaxgpt: place: {os.strerror(number)}; {CURES[number]}\n"


def test_a_current_folder_that_was_deleted_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current folder has been deleted" in one_line("train", "tiny", "--data.source", text, "--run", "run")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_that_is_not_text_is_refused_before_anything_is_done(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert r"b'a\xff' is not text in utf-8" in one_line(command, os.fsdecode(b"a\xff"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("microbatches", [1, 10**9])
def test_a_batch_that_no_machine_holds_is_refused_within_seconds(text, tmp_path, microbatches):
    sizes, began = ("--batch-size", 10**9, "--microbatches", microbatches), time.monotonic()
    message = one_line("train", "tiny", *sizes, "--data.source", text, "--run", tmp_path / "run")
    assert "batch_size=1000000000 needs" in message
    assert "make --batch-size smaller" in message
    assert time.monotonic() - began < 20
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("room", ["data", "training", "commands"])
@pytest.mark.parametrize(
    ("defect", "error", "message"),
    [
        ("max([])", ValueError, "empty"),
        ("int('x')", ValueError, "invalid literal"),
        ("open('/nowhere/x')", OSError, "No such file"),
    ],
)
def test_a_defect_in_our_own_code_keeps_its_traceback(defect, error, message, room, monkeypatch):
    ours = compile(f"def defect(_): {defect}", str(Path(package.__file__).parent / room / "new.py"), "exec")
    scope: dict = {}
    exec(ours, scope)
    monkeypatch.setattr("jaxgpt.commands.generate.main", scope["defect"])
    with pytest.raises(error, match=message):
        jaxgpt("generate", "x")


def test_a_character_that_the_terminal_lacks_does_not_end_a_command(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["jaxgpt", "generate"])
    monkeypatch.setattr("jaxgpt.commands.generate.main", lambda _: print("grüße") or 0)
    assert main() == 0
    out.flush()
    assert out.buffer.getvalue() == b"gr??e\n"


def test_an_interruption_outside_of_training_is_one_line(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxgpt.commands.generate.main", interrupt)
    assert jaxgpt("generate", "x") == (130, "", "jaxgpt: interrupted\n")


def test_help_is_quick_since_it_imports_no_jax():
    program = """
import sys
from importlib.util import find_spec
from jaxgpt.cli import COMMANDS, main
for command in COMMANDS:
    if command == "lm_eval" and not find_spec("lm_eval"):
        continue
    sys.argv = ["jaxgpt", command, "--help-all" if command == "train" else "--help"]
    try:
        code = main()
    except SystemExit as end:
        code = end.code or 0
    assert code == 0, (command, code)
assert not {"jax", "flax", "orbax", "torch", "transformers"} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--model.num-kv-heads" in done.stdout
    assert "nanoGPT's CPU example" in done.stdout


def test_training_leaves_the_folder_of_the_contract(trained):
    assert {path.name for path in trained.iterdir() if "tfevents" not in path.name} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "samples",
        "loss.png",
        "README.txt",
    }
    assert json.loads((trained / "config.json").read_text())["config"]["steps"] == STEPS
    found = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in found] == list(range(STEPS + 1))
    assert all({"step", "loss", "tokens_per_second", "learning_rate", "grad_norm"} <= line.keys() for line in found[1:])
    validated = [line["step"] for line in found if "val_loss" in line]
    assert validated == list(range(0, STEPS + 1, EVAL_EVERY))
    assert steps_saved(trained)[-2:] == [STEPS - EVAL_EVERY, STEPS]
    assert [path.name for path in (trained / "samples").iterdir()] == [f"{STEPS}.txt"]
    assert scalars(trained) == {
        (line["step"], name): pytest.approx(value) for line in found for name, value in line.items() if name != "step"
    }


def test_training_prints_plain_lines_and_learns(trained):
    out = (trained.parent / "output.txt").read_text()
    assert "\x1b" not in out
    assert "\r" not in out
    before = float(out.split("validation loss before training: ")[1].split()[0])
    after = lines(trained)[-1]["val_loss"]
    assert before == pytest.approx(np.log(65), abs=0.1)
    assert after < before - 0.5
    assert f"validation loss {after:.3f}" in out
    assert f"{trained.parent / 'text.txt'}: " in out
    assert folded((trained / "samples" / f"{STEPS}.txt").read_text()) in out
    assert re.search(r"^loss    4\.\d+ [▁▂▃▄▅▆▇█]{40} \d\.\d+$", out, re.MULTILINE)


def test_the_sample_is_what_the_saved_model_writes(trained):
    """Parameters in the folder are those that training ended with."""
    found = jaxgpt("generate", trained, "--prompt", "\n", "--max-new-tokens", 16, "--temperature", 0.8, "--top-p", 0.95)
    assert (found.code, found.err) == (0, "")
    assert found.out == (trained / "samples" / f"{STEPS}.txt").read_text() + "\n"


def test_generate_is_a_function_of_the_seed(trained):
    one, same, other = (
        jaxgpt("generate", trained, "--max-new-tokens", 16, "--seed", seed, "--num-samples", 2).out
        for seed in (1, 1, 2)
    )
    assert one == same != other
    first, second = (part.strip("\n") for part in one.split("─" * 80))
    assert first != second


def test_generate_fills_the_context_where_no_length_is_given(trained):
    assert len(jaxgpt("generate", trained, "--prompt", "abcd").out) == 32 + 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--prompt", "a" * 20, "--max-new-tokens", "13", "--no-slide"), "33 tokens are more than context_length=32"),
        (("--prompt", "a" * 33, "--no-slide"), "34 tokens are more than context_length=32"),
        (("--prompt", "é"), "character 'é' is not among the 65"),
        (("--prompt", ""), "the prompt is empty, and the char tokenizer has no end of text"),
        (("--temperature", "-1"), "temperature=-1.0 is below 0"),
        (("--top-k", "0"), "top_k=0 keeps no token"),
        (("--top-p", "1.5"), "top_p=1.5 is not a probability"),
        (("--max-new-tokens", "-1"), "max_new_tokens=-1 is below 0"),
    ],
    ids=spelled,
)
def test_generate_refuses_what_it_cannot_do(trained, flags, message):
    assert message in one_line("generate", trained, *flags)


def test_evaluate_covers_the_held_back_text(trained):
    outcome = jaxgpt("evaluate", trained, "--batch-size", 4)
    assert (outcome.code, outcome.err) == (0, "")
    with quick_compilation():
        held_back = read_run(trained).data().validation
        found = evaluate(package.load(trained), held_back, 1.0, batch_size=4)
    assert found.tokens == len(held_back) - 1
    assert outcome.out == (
        f"loss {found.loss:.4f} ± {found.standard_error:.4f} nats per token  perplexity {found.perplexity:.2f}  "
        f"bits per byte {found.bits_per_byte:.4f}  ({found.tokens:,} tokens)\n"
    )


def test_evaluate_refuses_a_batch_that_no_device_holds(trained):
    assert "batch_size=10000000000 needs at least" in one_line("evaluate", trained, "--batch-size", 10**10)


def test_evaluate_answers_a_task_in_a_table_and_in_json(trained, tmp_path, monkeypatch):
    content = json.dumps({"text": "abc def abc"}).encode() + b"\n"
    (tmp_path / "lambada_test.jsonl").write_bytes(content)
    known = dataclasses.replace(TASKS["lambada"].files[0], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(TASKS, "lambada", dataclasses.replace(TASKS["lambada"], files=(known,)))
    flags = ("--tasks", "lambada", "--task-data", tmp_path)
    outcome = jaxgpt("evaluate", trained, *flags)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.split()[:5] == ["task", "metric", "ours", "standard", "error"]
    found = json.loads(jaxgpt("evaluate", trained, *flags, "--json").out)
    assert [(row["task"], row["metric"], row["examples"]) for row in found["rows"]] == [
        ("lambada", "ppl", 1),
        ("lambada", "acc", 1),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tasks", "lambda"), "there is no task 'lambda'; did you mean 'lambada'?"),
        (("--tasks", "lambada", "--limit", "0"), "--limit 0 asks nothing; use at least 1"),
        (
            ("--tasks", "lambada", "--task-data", "nowhere"),
            "nowhere has no lambada_test.jsonl: get it from",
        ),
    ],
    ids=spelled,
)
def test_evaluate_refuses_tasks_that_it_cannot_ask(trained, flags, message):
    assert message in one_line("evaluate", trained, *flags)


def test_evaluate_on_a_text_of_other_characters_is_refused(trained, tmp_path):
    (tmp_path / "other.txt").write_text("grüße " * 200)
    assert "character 'ü' is not among the 65" in one_line("evaluate", trained, "--data", tmp_path / "other.txt")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model.num-layers", "3"), "is a run with model.num_layers=1, not 3:"),
        (("--seed", "1"), "is a run with seed=0, not 1"),
        (("--run", "elsewhere"), "already names the run folder; leave out --run elsewhere"),
    ],
    ids=spelled,
)
def test_resuming_as_another_run_is_refused(copy, flags, message):
    before = (copy / "config.json").read_bytes()
    assert message in one_line("train", "--resume", copy, *flags)
    assert (copy / "config.json").read_bytes() == before


def test_training_into_a_run_is_refused(copy, text):
    before = state(copy)
    assert "is not empty; go on with it by" in one_line("train", "tiny", "--data.source", text, "--run", copy)
    assert all((before[name] == now).all() for name, now in state(copy).items())


def test_resuming_on_a_text_that_changed_is_refused_and_changes_nothing(copy, text):
    """The run is longer by a flag, which must not be written either."""
    record = json.loads((copy / "config.json").read_text())
    record["config"]["data"]["source"] = str(text)
    (copy / "config.json").write_text(json.dumps(record))
    text.write_text(text.read_text()[::-1])
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert "has changed since" in one_line("train", "--resume", copy, "--steps", STEPS + 1)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_run_finds_its_text_from_any_folder(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--model.num-layers", 1, "--steps", 0, "--sample-tokens", 0)
    assert jaxgpt("train", "tiny", *flags, "--data.source", text.name, "--run", "run").code == 0
    assert read_run(Path("run")).config.data.source == str(text)
    monkeypatch.chdir("run")
    assert jaxgpt("train", "--resume", ".", "--data.source", f"../{text.name}").code == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("garbage_collected")
@pytest.mark.parametrize("command", [("generate",), ("evaluate",), ("train", "--resume")], ids=" ".join)
def test_a_truncated_checkpoint_is_refused(copy, command):
    for part in ("model", "training"):
        files = (copy / "checkpoints" / str(STEPS) / part).rglob("*")
        data = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
        data.write_bytes(data.read_bytes()[:100])
    outcome = jaxgpt(*command, copy)
    assert outcome.code == 2
    assert outcome.err.startswith(f"jaxgpt: {copy}/checkpoints/{STEPS} cannot be restored")
    assert outcome.err.count("\n") == 1


def test_a_run_without_a_checkpoint_says_what_to_do(copy):
    shutil.rmtree(copy / "checkpoints")
    assert f"has no checkpoint yet; train it first: jaxgpt train --resume {copy}" in one_line("generate", copy)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(trained, copy):
    before = state(copy)
    flags = ("--steps", STEPS + EVAL_EVERY, "--optimizer.learning-rate", "1e30")
    outcome = jaxgpt("train", "--resume", copy, *flags)
    assert outcome.code == 2
    assert "training stopped, and no checkpoint was made of this" in outcome.err
    assert f" at step {STEPS + 2}: " in outcome.err or f" at step {STEPS + 3}: " in outcome.err
    assert outcome.err.count("\n") == 1
    assert all(np.array_equal(before[name], now) for name, now in state(copy).items())
    assert lines(copy)[: STEPS + 1] == lines(trained)
    assert read_run(copy).config.steps == STEPS + EVAL_EVERY


@pytest.fixture
def full_disk(copy):
    """A run whose last checkpoint is lost, and the size of a file beyond which its disk is full."""
    shutil.rmtree(copy / "checkpoints" / str(STEPS))
    assert steps_saved(copy)[-1] == STEPS - EVAL_EVERY
    (copy / "metrics.jsonl").write_text("")  # it alone would grow past the limit
    files = [path for path in (copy / "checkpoints" / str(STEPS - EVAL_EVERY)).rglob("*") if path.is_file()]
    # Orbax writes in as many files as it likes, so the limit is far below the largest; the small ones have room.
    limit = max(path.stat().st_size for path in files) // 6
    assert limit > 3 * (copy / "config.json").stat().st_size
    return limit


def test_a_full_disk_during_a_save_leaves_the_last_checkpoint_usable(copy, full_disk):
    before = state(copy)
    process = start("train", "--resume", copy, "--log-every", 1000, largest_file=full_disk)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, (out, err)
    assert err.startswith(f"jaxgpt: a checkpoint could not be written to {copy}/checkpoints")
    assert f"whole ones are of steps [{STEPS - EVAL_EVERY}]" in err
    assert err.count("\n") == 1, err
    assert all((before[name] == now).all() for name, now in state(copy).items())


def test_a_full_disk_does_not_end_a_run_that_is_to_go_on(copy, full_disk):
    before, flags = state(copy), ("--log-every", 1000, "--eval-every", EVAL_EVERY // 2, "--on-failed-save", "go_on")
    process = start("train", "--resume", copy, *flags, "--sample-tokens", 0, largest_file=full_disk)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), (out, err)
    told = [line for line in out.splitlines() if line.startswith("a checkpoint could not be written to")]
    assert len(told) >= 1
    assert all(f"whole ones are of steps [{STEPS - EVAL_EVERY}]" in line for line in told)
    assert all(line.endswith("; going on without it") for line in told)
    assert lines(copy)[-1]["step"] == STEPS
    assert steps_saved(copy)[-1] == STEPS - EVAL_EVERY
    assert all((before[name] == now).all() for name, now in state(copy).items())


def test_a_run_whose_attention_cannot_run_here_is_read_by_another(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["config"]["model"]["attention"] = "cudnn"
    (run / "config.json").write_text(json.dumps(config))
    for command in (("generate", run, "--max-new-tokens", 2), ("evaluate", run)):
        assert "the platform is cpu, not an NVIDIA GPU; change that, or use attention='auto'" in one_line(*command)
        outcome = jaxgpt(*command, "--attention", "auto")
        assert outcome.code == 0, outcome
