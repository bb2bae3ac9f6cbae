"""What takes minutes: 30 MB in every form with kills in the middle, and memory for 100 MB and 2 GB."""

import random
import signal
import subprocess
import sys
import time

import pytest

from experiments.prepare import descendants, resident, write_texts
from tests.data.preparation.test_prepare import content, write
from tests.runs import jaxgpt, start

pytestmark = pytest.mark.slow
WORDS = ["the", "été", "naïve 🤖", "def f(x):\n\n    return", "中文。", "don't", "1984", "  ", "\n", "x" * 30]


def make_documents(megabytes: int) -> list[str]:
    draw, size, texts = random.Random(1), 0, []
    while size < megabytes * 1e6:
        texts.append(f"{len(texts)} " + " ".join(draw.choices(WORDS, k=draw.randint(1, 3000))))
        size += len(texts[-1].encode())
    return texts


def test_30_mb_give_the_same_shards_in_every_form_with_every_number_of_processes_and_a_kill(tmp_path):
    documents = make_documents(30)
    flags = ("--validation", 0.05, "--shard-tokens", 1_000_000)
    expected = None
    for form, workers in (("", 0), ("folder", 1), (".zst", 2), ("parquet", 3)):
        source, out = write(form, tmp_path / f"in{form}", documents), tmp_path / f"out{form}"
        if workers:
            process = start("data", "prepare", source, out, "--workers", workers, *flags)
            while not (out / "train_000002.bin").exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not (out / "manifest.json").exists()
        outcome = jaxgpt("data", "prepare", source, out, "--workers", workers, *flags)
        assert outcome.code == 0, outcome
        expected = expected or content(out)
        assert content(out) == expected
    program = [sys.executable, "-m", "jaxgpt", "data", "prepare", "-", str(tmp_path / "out-stdin"), *map(str, flags)]
    with open(tmp_path / "in" / "a.jsonl", "rb") as lines:
        subprocess.run(program, stdin=lines, check=True)
    assert content(tmp_path / "out-stdin") == expected


@pytest.mark.parametrize("megabytes", [100, 2000])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_memory_does_not_depend_on_the_size_of_the_input(tmp_path, megabytes, name):
    write_texts(tmp_path / "in", megabytes, small_files=False)
    program = [sys.executable, "-m", "jaxgpt", "data", "prepare", str(tmp_path / "in" / name), str(tmp_path / "out")]
    process, peak = subprocess.Popen([*program, "--workers", "2"]), 0
    while process.poll() is None:
        peak = max(peak, sum(map(resident, [process.pid, *descendants(process.pid)])))
        time.sleep(0.2)
    assert process.returncode == 0
    print(f"{name} of {megabytes} MB: at most {peak / 1e6:.0f} MB in all processes")
    assert peak < 600e6
