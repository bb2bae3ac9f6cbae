"""The command `jaxgpt`: finds the subcommand, imports it, and turns errors into one message."""

import atexit
import difflib
import errno
import gc
import importlib
import io
import os
import sys
import traceback
from types import ModuleType
from typing import NoReturn

from jaxgpt.errors import UserError
from jaxgpt.runtime.out_of_memory import is_out_of_memory
from jaxgpt.runtime.output import checked_output, open_closed_streams

COMMANDS = {
    "train": "train a GPT, or go on with a run",
    "finetune": "train a model further on a text, with settings made from both",
    "generate": "continue a text",
    "serve": "OpenAI's completions API, and a page to try a model",
    "evaluate": "loss on a text, or the standard evaluations",
    "compare": "runs and other models beside each other",
    "runs": "list runs: what, how far, how good",
    "lm_eval": "lm-evaluation-harness with our models",
    "convert": "write a model for another library, with other attention if you like",
    "plan": "what a run will need and send, before it runs",
    "data": "turn text of any size into token shards to train on",
    "completion": "print what makes a shell complete commands and flags",
    "verify": "compare a model with transformers, number by number",
}
"""The subcommands; each is the module of that name in jaxgpt.commands, and its `main(arguments)`."""

LESS = "use a smaller model, or a machine with more memory"
TRAIN_LESS = "make --batch-size smaller, raise --microbatches, use --remat block, or share the model by --mesh.fsdp"
OUT_OF_MEMORY = dict.fromkeys(COMMANDS, LESS) | {
    "train": TRAIN_LESS,
    "finetune": TRAIN_LESS,
    "generate": f"ask for fewer --num-samples or --max-new-tokens, or {LESS}",
    "serve": f"make --max-rows smaller, or {LESS}",
    "evaluate": f"make --batch-size smaller, or {LESS}",
    "compare": f"make --batch-size smaller, or {LESS}",
    "lm_eval": f"make --batch_size smaller, or {LESS}",
    "plan": "plan for fewer --devices, or on a machine with more memory",
    "data": "use fewer --workers, or a machine with more memory",
}
"""What helps where a subcommand runs out of memory."""

CURES = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "name a place that you may use",
    errno.EPERM: "name a place that you may use",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "make room, or name another disk",
    errno.EDQUOT: "make room, or name another disk",
    errno.ELOOP: "it is a link to itself: name what it should be",
    errno.EMFILE: "let this process open more files, by ulimit -n",
    errno.EIO: "see whether the disk is well",
}
"""What helps where the system refuses a file. A file that is missing is not here: that is checked where it is named."""

USAGE = """usage: jaxgpt COMMAND [...]

GPT-2 in JAX.

{}

Each has its own --help. `jaxgpt train` alone needs nothing else."""


def run() -> NoReturn:
    """The entry point of the program: runs the command line and exits with its code."""
    codes: list[int] = []
    atexit.register(_exit_without_teardown, codes)  # registered before JAX's handlers, so it runs after them
    codes.append(main())
    sys.exit(codes[0])


def _exit_without_teardown(codes: list[int]) -> None:
    if codes and (watchdog := _watchdog()):
        watchdog.exit_without_teardown(codes[0])


def _watchdog() -> ModuleType | None:
    """The watchdog's module where the command has imported it: only commands that use several processes do."""
    return sys.modules.get("jaxgpt.runtime.watchdog")


def main() -> int:
    """Run the command line; returns the exit code: 0 done, 2 what was asked for is not possible, 130 interrupted."""
    open_closed_streams()
    _print_anything()
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    try:
        with checked_output():
            _check_arguments(arguments)
            return _command(name, arguments) if name in COMMANDS else _about(name)
    except KeyboardInterrupt as stop:
        from jaxgpt.runtime.signals import tell

        return tell(stop)
    except SystemExit as wrong_flags:
        if wrong_flags.code:
            _end_all(2, UserError("its flags cannot be read"))
        raise
    except (UserError, MemoryError, RuntimeError, OSError, AssertionError) as error:
        told = error if isinstance(error, UserError) else _of_the_machine(name, error)
        if told is None or "JAXGPT_TRACEBACK" in os.environ:
            raise  # a defect keeps its traceback
        if watchdog := _watchdog():
            watchdog.before_failing(told)
        _refuse(str(told))
        _end_all(2, told)
        return 2


def _command(name: str, arguments: list[str]) -> int:
    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")  # tyro does not know NO_COLOR
    _keep_programs()
    gc.set_threshold(100_000, 20, 20)  # a start makes a million objects that stay: 0.4 of 5.2 s went into sorting them
    return importlib.import_module(f"jaxgpt.commands.{name}").main(arguments)


def _about(name: str) -> int:
    """What is printed where no command is named."""
    if name in ("-h", "--help", "help"):
        print(USAGE.format("\n".join(f"  {command:<10} {purpose}" for command, purpose in COMMANDS.items())))
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"jaxgpt {version('jaxgpt')}")
        return 0
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return _refuse(f"there is no command {name!r}; " + (f"did you mean {close[0]!r}?" if close else "see --help"))


def _check_arguments(arguments: list[str]) -> None:
    """Raise UserError where an argument is not text: JSON, orbax and the tokenizers could not write or open it."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{os.fsencode(argument)!r} is not text in {sys.getfilesystemencoding()}: rename what it names, "
                "convert it, or set PYTHONUTF8=1 where it is UTF-8"
            ) from None


def _of_the_machine(command: str, error: BaseException) -> UserError | None:
    """A message where an error is no defect but the machine's: no memory, no such device or folder. None: a defect."""
    if is_out_of_memory(error):
        return UserError(f"out of memory: {OUT_OF_MEMORY[command]}")
    if "Unable to initialize backend" in str(error) or _found_no_backend(error):
        named, reason = os.environ.get("JAX_PLATFORMS", ""), (str(error).splitlines() or ["no such device"])[0]
        return UserError(f"JAX_PLATFORMS={named}: {reason[:200]}; unset it, or name what is here")
    if "Could not determine home directory" in str(error):  # pathlib's
        return UserError("a path begins with ~, and there is no such user, or HOME is not set: write the path in full")
    if isinstance(error, OSError) and error.errno in CURES:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return UserError(f"{where}{error.strerror}; {CURES[error.errno]}")
    if isinstance(error, FileNotFoundError) and not _is_somewhere():
        return UserError("the current folder has been deleted: go to another by cd")
    return None


def _found_no_backend(error: BaseException) -> bool:
    """Whether it is JAX's assertion that one of JAX_PLATFORMS was found, which has no words."""
    if not isinstance(error, AssertionError):
        return False
    raised = traceback.extract_tb(error.__traceback__)[-1]
    return raised.name == "backends" and raised.filename.endswith("xla_bridge.py")


def _is_somewhere() -> bool:
    """Whether the current folder exists."""
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def _end_all(code: int, error: BaseException) -> None:
    """Where this is one of several processes, tell the others why it ends."""
    if watchdog := _watchdog():
        watchdog.end(code, error)


def _print_anything() -> None:
    """Have the terminal show ? for characters that its encoding lacks, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _keep_programs() -> None:
    """Have JAX keep what it compiles in the user's cache folder, unless the environment says otherwise: a second start
    of the same command compiles nothing. JAX reads this when it is imported.
    """
    from jaxgpt.runtime.user_cache import programs_folder

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", programs_folder())
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def _refuse(message: str) -> int:
    print(f"jaxgpt: {message}", file=sys.stderr)
    return 2
