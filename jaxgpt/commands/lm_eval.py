"""`jaxgpt lm_eval`: the command of lm-evaluation-harness, which knows our models."""

import difflib
import sys
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError

NAME = "jaxgpt"
NOT_FOUND = "Tasks not found: "
"""How the harness begins its message about names that it does not know."""


def main(arguments: list[str]) -> int:
    """Run `lm_eval` with these arguments; returns the exit code. Without --model, the model is ours."""
    _check_installed()
    from lm_eval.__main__ import cli_evaluate

    if not {"-h", "--help"} & set(arguments):
        register()  # imports jax, for which --help does not wait
    if "--model_args" in arguments and not {"--model", "-M"} & set(arguments):
        arguments = [*arguments, "--model", NAME]
    sys.argv = ["lm_eval", *arguments]
    try:
        cli_evaluate()
    except ValueError as error:
        unknown = str(error).removeprefix(NOT_FOUND)
        if unknown == str(error):
            raise
        raise UserError(_unknown_tasks(unknown.split(", "))) from None
    return 0


def _unknown_tasks(names: list[str]) -> str:
    """What was likely meant by names that the harness does not know."""
    from lm_eval.tasks import TaskManager

    known = TaskManager().all_tasks
    near = (f"{name!r}{_nearest(difflib.get_close_matches(name, known, n=3))}" for name in names)
    return f"the harness has no task {', no '.join(near)}; `jaxgpt lm_eval ls tasks` lists all {len(known):,}"


def _nearest(close: list[str]) -> str:
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _check_installed() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise UserError(f"lm-evaluation-harness is not installed ({error}): pip install 'jaxgpt[lm-eval]'") from None


def _whole(name: str, value: int | str) -> int:
    if not str(value).isdecimal():
        raise UserError(f"{name}={value} in --model_args must be a whole number")
    return int(value)


def register() -> None:
    """Make `jaxgpt` a model of the harness, for `lm_eval.simple_evaluate(model="jaxgpt", ...)` too."""
    _check_installed()
    from lm_eval.api.registry import model_registry

    from jaxgpt.evaluation.lm_eval import HarnessModel
    from jaxgpt.evaluation.scoring import BatchSize

    class SourceModel(HarnessModel):
        """--model_args source=SOURCE,batch_size=16,step=best and changes of the config, such as dtype=bfloat16."""

        def __init__(
            self,
            source: str | Path,
            batch_size: int | str = "auto",
            max_gen_toks: int = 256,
            device: str | None = None,
            max_batch_size: int | None = None,
            **changes: Any,
        ) -> None:
            del device, max_batch_size  # the harness says them to every model; JAX_PLATFORMS chooses a device
            from jaxgpt.commands.sources import load_on_all_devices
            from jaxgpt.loading import load_tokenizer

            size: BatchSize = "auto" if str(batch_size).startswith("auto") else _whole("batch_size", batch_size)
            model = load_on_all_devices(source, **changes)
            longest = _whole("max_gen_toks", max_gen_toks)
            super().__init__(model, load_tokenizer(source), batch_size=size, max_gen_toks=longest)

        @classmethod
        def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Any:
            """What --model_args say counts more than the harness's defaults."""
            given = {name: value for name, value in (additional_config or {}).items() if value is not None}
            return cls(**given | arg_dict)

        @classmethod
        def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
            from lm_eval.utils import simple_parse_args_string

            return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    if NAME not in model_registry:
        model_registry.register(NAME, target=SourceModel)
