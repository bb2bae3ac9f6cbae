"""`jaxgpt plan`."""

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from jaxgpt.commands.flags import flags_of, refuse_foreign, take_name
from jaxgpt.commands.foreign_flags import FOREIGN
from jaxgpt.commands.train import initial_config
from jaxgpt.errors import UserError
from jaxgpt.inspect.hardware import UTILISATION, Device, Fabric
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.presets import PRESETS

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxgpt.inspect.plan import Plan
    from jaxgpt.model.gpt import GPT


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The flags of `jaxgpt plan`."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    devices: int = 1
    """How many there would be."""
    device: Device = "cpu"
    """What they would be. The program of a GPU is compiled without one (pip install 'jaxgpt[gpu-compile]')."""
    fabric: Fabric = "nvlink"
    """What connects them; only the prediction depends on it."""


def main(arguments: list[str]) -> int:
    """Compile a preset's step for devices that need not be here, and print what it needs and sends."""
    flags, known = list(arguments), flags_of(Arguments) | {"--help": 0, "-h": 0}
    refuse_foreign(flags, known, FOREIGN)
    default = Arguments(initial_config(take_name(flags, known, PRESETS), None, flags)[1])
    description = "What a run will need and what it will send, before it runs. Takes the flags of `jaxgpt train` too."
    chosen = tyro.cli(Arguments, prog="jaxgpt plan [PRESET]", description=description, args=flags, default=default)
    if chosen.devices < 1:
        raise UserError(f"--devices {chosen.devices} must be at least 1")
    _prepare(chosen)
    console = Console(highlight=False, markup=False, emoji=False)
    with console.status(f"compiling for {chosen.devices} {chosen.device}"):
        plan = compile_plan(chosen)
    for name, value in _rows(chosen, plan).items():
        console.print(f"{name:<11} {value}", soft_wrap=True)
    return 0


def _prepare(chosen: Arguments) -> None:
    """Make the devices. Raises UserError where they cannot be, or cannot share the batch."""
    import jax

    from jaxgpt.inspect.target import check_cuda_compiler
    from jaxgpt.parallel.mesh import check_batch

    if chosen.device == "cpu":
        jax.config.update("jax_num_cpu_devices", chosen.devices)
    elif reason := check_cuda_compiler():
        raise UserError(f"--device {chosen.device}: {reason}")
    jax.config.update("jax_platforms", "cpu")
    check_batch(
        chosen.config.batch_size, math.prod(chosen.config.mesh.sizes(chosen.devices)), chosen.config.microbatches
    )


def compile_plan(chosen: Arguments) -> "Plan":
    """Compile the step for these devices. Raises UserError as training would."""
    from jaxgpt.inspect.plan import compiling_for_device, devices_of, make_plan, memory_limit
    from jaxgpt.training.step import abstract_batch, abstract_state, compile_step

    config, device = chosen.config, chosen.device
    mesh = config.mesh.make(devices_of(device, chosen.devices))
    state, batch, teacher = abstract_state(config, mesh), abstract_batch(config, mesh), _teacher(config, mesh)
    end_of_text = config.model.vocab_size - 1 if config.data.mask_documents else None  # any id: the program is the same
    with compiling_for_device(device) as options:
        rule: dict[str, Any] = {"limit": memory_limit(device), "options": options}
        compiled, remat = compile_step(config, mesh, state, batch, teacher, end_of_text=end_of_text, **rule)
    tokens = config.batch_size * config.model.context_length
    parts = {"state": state, "model": state.model, "teacher": teacher}
    return make_plan(compiled, mesh, config.model, tokens, remat=remat, device=device, **parts)


def _teacher(config: TrainConfig, mesh: "Mesh") -> "GPT | None":
    """The shapes of the model to distil from, without its weights. Raises UserError as training would."""
    if config.distill is None:
        return None
    from jaxgpt.launch import check_teacher, source_config
    from jaxgpt.model.parameters import abstract_model
    from jaxgpt.parallel.sharding import abstract_shards

    teacher = source_config(config.distill)
    check_teacher(teacher, config)
    return abstract_shards(abstract_model(dataclasses.replace(teacher, dtype=config.model.dtype)), mesh)


def _rows(chosen: Arguments, plan: "Plan") -> dict[str, str]:
    config, mesh = chosen.config, plan.mesh
    tokens = config.batch_size * config.model.context_length
    teacher = f"teacher {_in('B', plan.teacher)}, " if plan.teacher else ""
    rows = {
        "mesh": f"data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}, zero {config.zero}, remat {plan.remat}",
        "step": f"{tokens:,} tokens, {tokens // mesh.size:,} on each device, in {config.microbatches} pieces",
        "memory": f"{_in('B', plan.needed)} on each device: parameters {_in('B', plan.parameters)}, optimizer "
        f"{_in('B', plan.optimizer)}, {teacher}activations and gradients {_in('B', plan.temporary)}",
    }
    if plan.limit is not None:
        rows["fits"] = f"{'yes' if plan.fits else 'NO'}: {_in('B', plan.limit)} of a {chosen.device} can be used"
    rows["arithmetic"] = (
        f"{_in('FLOP', plan.flops_per_token)} per token, {_in('FLOP', plan.flops)} on each device and step"
    )
    rows["sent"] = _sent(plan)
    if chosen.device != "cpu" and mesh.size > 1:
        rows["prediction"] = _prediction(chosen, plan)
    return rows


def _sent(plan: "Plan") -> str:
    """What each device sends in a step, by kind."""
    from jaxgpt.inspect.collectives import by_kind, wire_bytes

    kinds = [f"{sent.times} {kind} of {_in('B', sent.bytes)} in all" for kind, sent in by_kind(plan.sent).items()]
    return f"{_in('B', wire_bytes(plan.sent))} by each device: {', '.join(kinds)}" if kinds else "nothing"


def _prediction(chosen: Arguments, plan: "Plan") -> str:
    from jaxgpt.inspect.plan import efficiency
    from jaxgpt.inspect.schedule import hidden_bytes

    assert chosen.device != "cpu"
    hidden, total = hidden_bytes(plan.schedule)
    return (
        f"over {chosen.fabric}, {100 * efficiency(plan, chosen.device, chosen.fabric):.1f} % of the speed of devices "
        f"that send nothing; {100 * hidden / max(total, 1):.0f} % of the bytes are sent while products are computed "
        f"(not measured: the compiled program's order, data sheets, arithmetic at {100 * UTILISATION:.0f} % of peak)"
    )


def _in(unit: str, number: float) -> str:
    """A number with the prefix that leaves it above 1."""
    prefix, size = next(((p, s) for p, s in (("T", 1e12), ("G", 1e9), ("M", 1e6)) if number >= s), ("k", 1e3))
    return f"{number / size:.2f} {prefix}{unit}"
