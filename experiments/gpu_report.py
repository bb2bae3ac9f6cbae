"""What would the training step do on an H200? Read from the program compiled for one, without one.

    make gpu-report

It installs CUDA's compiler (extra gpu-compile) into an environment of its own, .venv-gpu: where there is no GPU, jax
complains of that compiler at every start. Some rows only: JAX_PLATFORMS=cpu .venv-gpu/bin/python -m
experiments.gpu_report --rows 124M

Each row is compiled for one H200 with bfloat16 arithmetic, float32 state, AdamW, clipping and a donated state, and is
held to BOUNDS where it has some. What it does not show: time.
"""

import dataclasses
import json
import math
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from experiments import gpu_decode
from experiments.compiled import facts
from jaxgpt.inspect.schedule import events, hidden_bytes
from jaxgpt.inspect.target import AOT_XLA_FLAGS, check_cuda_compiler, h200, no_driver
from jaxgpt.ops.cross_entropy import GPU_CHUNK
from jaxgpt.ops.platform import compiling_for
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import bytes_per_device
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import abstract_batch, abstract_state, compile_step

REPORT = Path(__file__).parent / "results" / "gpu_report.json"


class Row(NamedTuple):
    """A training step to compile."""

    preset: str = "gpt2"
    batch: int = 32
    """On each device."""
    length: int = 1024
    changes: dict[str, Any] = {}  # noqa: RUF012
    mesh: tuple[int, int] = (1, 1)
    """data and fsdp."""


ROWS = {
    "124M": Row(),
    "355M": Row("gpt2-medium"),
    "774M": Row("gpt2-large", batch=16),
    "1.5B": Row("gpt2-xl", batch=8),
    "124M, window 256": Row(batch=4, length=8192, changes={"window": 256}),
    "124M, 4 KV heads": Row(changes={"num_kv_heads": 4}),
    "124M, rotary": Row(changes={"position": "rotary"}),
    "124M, data 8": Row(mesh=(8, 1)),
    "124M, fsdp 8": Row(mesh=(1, 8)),
    "1.5B, fsdp 8": Row("gpt2-xl", batch=8, mesh=(1, 8)),
}

COLLECTIVES = {
    (False, False): set(),
    (True, False): {"all-reduce"},
    (False, True): {"all-gather", "reduce-scatter", "all-reduce"},
}
"""By whether there is more than one device along data and along fsdp."""

BOUNDS = {
    "124M": {"kernels": 990, "gigabytes": 96.2, "temporary_gigabytes": 12.0},
    "124M, data 8": {"exposed_percent": 37},
    "124M, fsdp 8": {"exposed_percent": 32},
}
"""They only go down. exposed_percent: of the bytes that are sent, those sent while no product is computed: the gather
of the vocabulary's table (fsdp), its gradient, and the first and last block."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compile training steps for an H200 and report what they would do."""

    rows: tuple[str, ...] = (*ROWS, *gpu_decode.ROWS)
    """Which rows to compile; the others stay as they are in the report."""
    write: bool = True
    """Save the report; else only print."""


def main(arguments: Arguments) -> None:
    """Print and save the rows as they are known. Ends with an error where one is not as it should be."""
    if reason := check_cuda_compiler():
        raise SystemExit(reason)
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {"rows": {}}
    report["environment"] = {name: version(name) for name in ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax")}
    missed = []
    for name in arguments.rows:
        if name in ROWS:
            found = train_step_facts(ROWS[name])
            print(f"{name}: {describe(found)}", flush=True)
            missed += [f"{name}: not so: {rule}" for rule, holds in rules(name, found).items() if not holds]
        else:
            found = gpu_decode.decode_facts(gpu_decode.ROWS[name])
            print(
                "{}: {kernels} kernels, {megabytes} MB, at least {least_megabytes} MB".format(name, **found), flush=True
            )
        for key, most in (BOUNDS | gpu_decode.BOUNDS).get(name, {}).items():
            missed += [f"{name}: {key}: {found[key]} > {most}"] if found[key] > most else []
        rows = report["rows"] | {name: found}
        report["rows"] = {name: rows[name] for name in (*ROWS, *gpu_decode.ROWS) if name in rows}
        if arguments.write:
            REPORT.write_text(json.dumps(report, indent=1) + "\n")
    if missed:
        raise SystemExit("\n".join(missed))


def train_step_facts(row: Row) -> dict[str, Any]:
    """What the compiled step does on each device."""
    config = step_config(row)
    mesh = config.mesh.make(h200(math.prod(row.mesh)))
    state = abstract_state(config, mesh)
    with compiling_for("cuda"), no_driver():
        compiled, _ = compile_step(config, mesh, state, abstract_batch(config, mesh), options=AOT_XLA_FLAGS)
    text = compiled.as_text()
    logits = {int(n) for n in re.findall(rf"f32\[(\d+),{config.model.padded_vocab_size}\]", text)}
    hidden, sent = hidden_bytes(events(text))
    return {
        "batch": row.batch,
        "length": row.length,
        **facts(compiled),
        "state_bytes": bytes_per_device(state),
        "mesh": row.mesh,
        "largest_float32_logits": max(logits, default=0),
        "vocabulary": config.model.padded_vocab_size,
        "layers": config.model.num_layers,
        "exposed_percent": round(100 * (1 - hidden / sent), 1) if sent else 0.0,
    }


def step_config(row: Row) -> TrainConfig:
    """The preset of a row, as it is compiled here."""
    config = TrainConfig.preset(row.preset)
    changes = {"dtype": "bfloat16", "attention": "cudnn", "dropout": 0.0, "context_length": row.length, **row.changes}
    model = dataclasses.replace(config.model, **changes)
    batch = row.batch * math.prod(row.mesh)
    mesh = MeshConfig(*row.mesh)
    return dataclasses.replace(config, model=model, batch_size=batch, microbatches=1, mesh=mesh, remat="none")


def describe(found: dict[str, Any]) -> str:
    """The main numbers on a line."""
    sent = ", ".join(f"{count} {kind} of {size} MB" for kind, (count, size) in found["collectives"].items())
    return (
        f"{found['batch']} x {found['length']}; {found['kernels']} kernels, {found['gigabytes']} GB, "
        f"{found['temporary_gigabytes']} GB temporary; attention {found['attention_forward']} forward, "
        f"{found['attention_backward']} backward, {' '.join(found['masks'])}, windows {found['windows']}; "
        f"float32 logits of {found['largest_float32_logits']} tokens; {found['loops']} loops; "
        f"scatters into {', '.join(found['scatters'])}; "
        + (
            f"{sent}, {found['exposed_percent']} % of the bytes while no product is computed"
            if sent
            else "nothing sent"
        )
    )


def rules(name: str, found: dict[str, Any]) -> dict[str, bool]:
    """What holds of every step, and whether it does of this one."""
    layers, vocabulary = found["layers"], found["vocabulary"]
    tables = [shape for shape in found["scatters"] if f"[{vocabulary}," in shape]
    return {
        "every layer's attention is cuDNN's, once forward and once backward": (
            found["attention_forward"] == found["attention_backward"] == layers
        ),
        "every mask is causal, and looks back as far as the window": (
            found["masks"] == ["CAUSAL"] and found["windows"] == [ROWS[name].changes.get("window", 0)]
        ),
        "float32 logits of no more than a chunk": found["largest_float32_logits"] <= GPU_CHUNK,
        "nothing is scattered over the vocabulary": not any(
            shape.endswith(f",{vocabulary}]") for shape in found["scatters"]
        ),
        "one scatter into the table, the embedding's own gradient": len(tables) <= 1,
        "no loop but over the chunks of the loss": found["loops"] <= 1,
        "the whole state is donated": found["donated_bytes"] == found["state_bytes"],
        "only the collectives of its mesh": found["collectives"].keys()
        == COLLECTIVES[tuple(size > 1 for size in found["mesh"])],
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
