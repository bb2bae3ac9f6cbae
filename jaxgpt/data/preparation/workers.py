"""Processes that tokenise: threads inside tiktoken do not scale, and Python's pools start the caller's script again."""

import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from jaxgpt.data.preparation.reading import Block
from jaxgpt.data.preparation.tokenise import Settings, Tokenised, tokenise
from jaxgpt.data.tokenizer import Tokenizer, from_spec
from jaxgpt.errors import UserError

AHEAD = 3
"""Blocks that are read ahead for each process."""


class Workers:
    """So many processes; none: the work is done here."""

    def __init__(self, count: int, tokenizer: Tokenizer, settings: Settings) -> None:
        self.count, self.tokenizer, self.settings = count, tokenizer, settings
        self.idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self.processes = [_Process(tokenizer.spec(), settings) for _ in range(count)]
        for process in self.processes:
            self.idle.put(process)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.processes:
            process.close()

    def tokenise(self, blocks: Iterable[Block]) -> Generator[tuple[Block, Tokenised]]:
        """Each block with its tokens, in order. Few blocks are in memory at once."""
        if not self.count:
            yield from ((block, tokenise(block, self.tokenizer, self.settings)) for block in blocks)
            return
        waiting: deque[tuple[Block, Future[Tokenised]]] = deque()
        with ThreadPoolExecutor(self.count) as threads:
            try:
                for block in blocks:
                    waiting.append((block, threads.submit(self._on_idle, block)))
                    if len(waiting) >= AHEAD * self.count:
                        done, future = waiting.popleft()
                        yield done, future.result()
                while waiting:
                    done, future = waiting.popleft()
                    yield done, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()

    def _on_idle(self, block: Block) -> Tokenised:
        process = self.idle.get()
        try:
            return process.tokenise(block)
        finally:
            self.idle.put(process)


class _Process:
    """One process; what is sent and what comes back are pickles."""

    def __init__(self, spec: dict[str, Any], settings: Settings) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; from jaxgpt.data.preparation.workers import serve; serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_ENVIRONMENT | os.environ,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.to, self.back = self.process.stdin, self.process.stdout
        pickle.dump((spec, settings), self.to)
        self.to.flush()

    def tokenise(self, block: Block) -> Tokenised:
        try:
            pickle.dump(block, self.to, pickle.HIGHEST_PROTOCOL)
            self.to.flush()
            outcome = pickle.load(self.back)
        except (OSError, EOFError):
            raise UserError(
                f"a process that tokenises has ended (exit code {self.process.wait()}), as where memory runs out: "
                "run the same command again, it goes on from here; fewer --workers need less"
            ) from None
        if isinstance(outcome, UserError):
            raise outcome
        if isinstance(outcome, str):
            raise RuntimeError(f"in a process that tokenises:\n{outcome}")
        return outcome

    def close(self) -> None:
        self.process.kill()  # it has no files open
        self.process.wait()
        self.back.close()
        with suppress(BrokenPipeError):
            self.to.close()


_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


def serve() -> None:
    """What a process does until its input ends, as it does with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the one that started the others ends them
    read, write = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    spec, settings = pickle.load(read)
    tokenizer = from_spec(spec)
    while True:
        try:
            block = pickle.load(read)
        except EOFError:
            return
        outcome: Tokenised | UserError | str
        try:
            outcome = tokenise(block, tokenizer, settings)
        except UserError as error:
            outcome = error
        except Exception:
            outcome = traceback.format_exc()
        pickle.dump(outcome, write, pickle.HIGHEST_PROTOCOL)
        write.flush()
