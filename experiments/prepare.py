"""How fast does text become token shards, in how much memory, beside nanoGPT's and llm.c's way?

    python -m experiments.prepare

The same documents (pieces of the standard library, drawn at random) are prepared in turns: by `jaxgpt data prepare`
from JSON lines, from one large text and from many small files; as nanoGPT does (datasets.map with tiktoken, then one
memory map); as llm.c does (a Pool with tiktoken). Each way is a process of its own. Speed is given against tiktoken
alone on one core, measured just before in the same way: by the clock, and by processor time, which other work on the
machine disturbs less. Memory is the largest sum over all processes of a way. What it does not show: a network.
"""

import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tyro

from experiments import evidence


def main(megabytes: int = 60, rounds: int = 3, workers: int = 2, large: int = 0, write: bool = True) -> None:
    """Prepare the same text in every way.

    Args:
        megabytes: Of text.
        rounds: How often each way is measured.
        workers: Processes of each way.
        large: Megabytes of text for a second measurement of our memory; 0: none.
        write: Save the result beside the others.
    """
    environment = evidence.environment("python -m experiments.prepare", "tiktoken")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_texts(folder / "input", megabytes)
        ways = [way for way in WAYS if way != "datasets" or find_spec("datasets")]
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for number in range(rounds):
            for way in ways:
                found[way].append(measure(way, folder, folder / f"{way}-{number}", workers))
        result = {
            "megabytes": size / 1e6,
            "workers": workers,
            "ways": {way: summary(runs, found["tiktoken"], size, workers) for way, runs in found.items()},
        }
        if large:
            size = write_texts(folder / "large", large, small_files=False)
            runs = [measure(way, folder, folder / f"large-{way}", workers, "large") for way in ("jsonl", "text")]
            result["large"] = {
                "megabytes": size / 1e6,
                "peak_megabytes": {way: run["megabytes"] for way, run in zip(("jsonl", "text"), runs)},
            }
    result["environment"] = environment
    print(json.dumps(evidence.rounded(result), indent=1))
    if write:
        evidence.write("prepare", result)


def summary(runs: list[dict[str, float]], alone: list[dict[str, float]], size: int, workers: int) -> dict[str, float]:
    """Medians; the shares are of tiktoken alone on one core, times the cores that could work."""
    shares = [one["seconds"] / run["seconds"] / workers for run, one in zip(runs, alone)]
    processor = [one["processor_seconds"] / run["processor_seconds"] for run, one in zip(runs, alone)]
    return {
        "megabytes_per_second": size / 1e6 / statistics.median(run["seconds"] for run in runs),
        "share_of_tiktoken_by_the_clock": statistics.median(shares),
        "share_of_tiktoken_by_processor_time": statistics.median(processor),
        "peak_megabytes": max(run["megabytes"] for run in runs),
    }


def write_texts(folder: Path, megabytes: int, small_files: bool = True) -> int:
    """Documents as JSON lines, as one text, and as a folder of texts; returns their bytes."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = [path.read_text("utf-8", "ignore") for path in sorted([*library.glob("*.py"), *library.glob("*/*.py")])]
    draw, size, number = random.Random(0), 0, 0
    (folder / "texts").mkdir(parents=True)
    with (folder / "a.jsonl").open("w") as lines, (folder / "a.txt").open("w") as whole:
        while size < megabytes * 1e6:
            source = draw.choice(sources)
            start = draw.randrange(max(1, len(source) - 4000))
            text = source[start : start + draw.randint(500, 8000)]
            if not text.strip():
                continue
            lines.write(json.dumps({"text": text}) + "\n")
            whole.write(text)
            if small_files:
                (folder / "texts" / f"{number:07}.txt").write_text(text)
            size, number = size + len(text.encode()), number + 1
    return size


def measure(way: str, folder: Path, out: Path, workers: int, texts: str = "input") -> dict[str, float]:
    """Run a way in a process of its own, and watch its memory."""
    paths = f"Path({str(folder / texts)!r}), Path({str(out)!r}), {workers}"
    program = f"from experiments.prepare import WAYS; from pathlib import Path; WAYS[{way!r}]({paths})"
    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, done = [0.0], threading.Event()
    watcher = threading.Thread(target=lambda: watch(process.pid, peak, done))
    watcher.start()
    _, errors = process.communicate()
    seconds, after = time.perf_counter() - began, os.times()
    done.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{way}: {errors.decode()}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "processor_seconds": used, "megabytes": peak[0]}


def watch(pid: int, peak: list[float], done: threading.Event) -> None:
    """The largest memory of a process and those it started. Pages of files that they share count once for each."""
    while not done.wait(0.1):
        peak[0] = max(peak[0], sum(map(resident, [pid, *descendants(pid)])) / 1e6)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        children += [
            child
            for task in Path(f"/proc/{pid}/task").iterdir()
            if task.name != str(pid)
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return [each for child in children for each in (int(child), *descendants(int(child)))]


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def jaxgpt(source: str) -> Callable[[Path, Path, int], None]:
    """`jaxgpt data prepare` on one of the forms."""

    def run(texts: Path, out: Path, workers: int) -> None:
        from jaxgpt.commands.data import main

        main(["prepare", str(texts / source), str(out), "--workers", str(workers), "--validation", "0.0005"])

    return run


def tiktoken_alone(texts: Path, out: Path, workers: int) -> None:  # noqa: ARG001
    """Encode all documents on one core and drop the tokens."""
    from jaxgpt.data.tokenizer import gpt2_encoding

    encoding = gpt2_encoding()
    for line in (texts / "a.jsonl").open():
        encoding.encode_ordinary(json.loads(line)["text"])


def with_a_pool(texts: Path, out: Path, workers: int) -> None:
    """llm.c's way: documents to a Pool, arrays back, one shard."""
    out.mkdir()
    with multiprocessing.Pool(workers) as pool, (out / "train.bin").open("wb") as file:
        documents = (json.loads(line) for line in (texts / "a.jsonl").open())
        for tokens in pool.imap(tokens_of, documents, chunksize=16):
            file.write(tokens.tobytes())


def tokens_of(document: dict[str, str]) -> np.ndarray:
    """One document with <|endoftext|> before it."""
    from jaxgpt.data.tokenizer import END_OF_TEXT, gpt2_encoding

    tokens = np.array([END_OF_TEXT, *gpt2_encoding().encode_ordinary(document["text"])])
    assert (tokens >= 0).all()
    assert (tokens < 2**16).all()
    return tokens.astype(np.uint16)


def with_datasets(texts: Path, out: Path, workers: int) -> None:
    """NanoGPT's way: datasets.map to lists of ids, then one memory map filled in 1024 batches."""
    import datasets

    os.environ["HF_DATASETS_CACHE"] = str(out / "cache")
    loaded = datasets.load_dataset("json", data_files=str(texts / "a.jsonl"), cache_dir=str(out / "cache"))
    mapped = loaded["train"].map(ids_of, remove_columns=["text"], num_proc=workers)
    array = np.memmap(out / "train.bin", np.uint16, "w+", shape=(int(np.sum(mapped["len"], dtype=np.uint64)),))
    at, shards = 0, min(1024, len(mapped))
    for number in range(shards):
        batch = np.concatenate(mapped.shard(shards, number, contiguous=True).with_format("numpy")["ids"])
        array[at : at + len(batch)] = batch
        at += len(batch)
    array.flush()


def ids_of(document: dict[str, str]) -> dict[str, object]:
    """One document with <|endoftext|> after it."""
    from jaxgpt.data.tokenizer import END_OF_TEXT, gpt2_encoding

    ids = [*gpt2_encoding().encode_ordinary(document["text"]), END_OF_TEXT]
    return {"ids": ids, "len": len(ids)}


WAYS: dict[str, Callable[[Path, Path, int], None]] = {
    "tiktoken": tiktoken_alone,
    "jsonl": jaxgpt("a.jsonl"),
    "text": jaxgpt("a.txt"),
    "folder": jaxgpt("texts"),
    "pool": with_a_pool,
    "datasets": with_datasets,
}
"""tiktoken alone; ours from JSON lines, one large text, many small files; llm.c's way; nanoGPT's way."""

if __name__ == "__main__":
    tyro.cli(main)
