"""The parts of a training run, for scripts with a loop of their own; `jaxgpt.train` is a loop over them."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.stages import Compiled
from jaxtyping import Int

from jaxgpt.data import Batches, DeviceBatches, Tokenizer, eval_batches
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model
from jaxgpt.parallel.mesh import check_batch
from jaxgpt.parallel.sharding import abstract_shards, shard
from jaxgpt.runtime.processes import check_equal_hosts, from_main_process, on_main_process
from jaxgpt.runtime.user_cache import runs_folder
from jaxgpt.training.checkpoint import Checkpoints, Which
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.lock import run_lock
from jaxgpt.training.memory import check_batch_fits, check_parameters_fit, check_state_fits, memory_errors, memory_limit
from jaxgpt.training.readme import write_readme
from jaxgpt.training.run import (
    Run,
    check_is_new,
    check_vocabulary,
    create_folder,
    is_run,
    new_run,
    read_run,
    reconfigured,
    refused_by_the_disk,
    write_config,
)
from jaxgpt.training.source import Data, open_data
from jaxgpt.training.state import Optimizer, TrainState, abstract_batch, abstract_state, initial_state, state_from
from jaxgpt.training.step import Loss, Metrics, compile_step, describe_attention
from jaxgpt.training.trackers import check_installed
from jaxgpt.training.validation import compile_validation

if TYPE_CHECKING:
    from jaxgpt.evaluation.tasks.in_training import TaskMetrics


class Trainer:
    """Everything that a training run computes, as methods.

    Args:
        config: A preset's name or a TrainConfig.
        mesh: The devices; by default made by `config.mesh`.
        optimizer: Any optax transformation, in place of the config's; it gets the gradient unclipped.
        loss: loss(model, tokens int32[B, T+1], key) -> a scalar, or a scalar and a dict of scalars.
        data: A text's name or path, token ids [N], or a TokenData; by default `config.data`.
        folder: The run folder, for `save` and `restore`. None: `save` makes runs/NAME-DATE-TIME.
        teacher: The model to distil from; its distributions are learned in place of the text's tokens.
        tokenizer: For `data` that is text, in place of the config's.
        vocabulary_by_hand: Whether `config.model.vocab_size` stays as it is, instead of following the tokenizer.

    Raises UserError where they do not fit each other.

    Example:
        >>> from jaxgpt import Trainer
        >>> trainer = Trainer("tiny", data=list(range(20)) * 40)
        >>> state = trainer.init()
        >>> state, metrics = trainer.step(state, trainer.batch(0))
        >>> round(float(metrics.loss), 1), int(state.step)
        (4.2, 1)
        >>> for state, metrics in trainer.steps(state):
        ...     if int(state.step) == 3:
        ...         break
        >>> trainer.validate(state) < 4.3
        True
    """

    def __init__(
        self,
        config: TrainConfig | str,
        *,
        mesh: Mesh | None = None,
        optimizer: Optimizer | None = None,
        loss: Loss | None = None,
        data: Data | None = None,
        folder: str | Path | None = None,
        teacher: GPT | None = None,
        tokenizer: Tokenizer | None = None,
        vocabulary_by_hand: bool = False,
    ) -> None:
        self.name = config if isinstance(config, str) else "run"
        config = TrainConfig.preset(config) if isinstance(config, str) else config
        check_equal_hosts(jax.devices())
        self.mesh = config.mesh.make() if mesh is None else mesh
        check_parameters_fit(self.mesh, config)
        self.optimizer, self.loss = optimizer, loss
        self.data, self.config, from_python = open_data(data, config, tokenizer, vocabulary_by_hand)
        named = {"optimizer": optimizer, "loss": loss}
        self.from_python = from_python | {key: _name(value) for key, value in named.items() if value is not None}
        self.folder = None if folder is None else Path(folder)
        self._open = ExitStack()
        self._check(teacher)
        self.teacher = None if teacher is None else shard(teacher, self.mesh)

    def _check(self, teacher: GPT | None) -> None:
        """Raise UserError where training would fail later on."""
        config = self.config
        if config.distill is not None and teacher is None:
            raise UserError(f"distill={config.distill!r}: jaxgpt.train loads it; here pass the model as teacher=")
        check_installed(config)
        check_vocabulary(config, self.data.tokenizer)
        self.end_of_text  # noqa: B018  raises where documents are to be masked, and have no mark
        check_batch(config.batch_size, self.mesh.size, config.microbatches)
        check_batch_fits(self.mesh, config)
        self.batches  # noqa: B018  raises where the text is too short
        eval_batches(self.data.validation, 1, config.model.context_length, 1)
        if config.eval_tasks is not None:
            self._task_metrics  # noqa: B018  fetches and checks the tasks' files
        describe_attention(config.model, documents=config.data.mask_documents)
        frozen = None if teacher is None else abstract_shards(abstract_model(teacher.config), self.mesh)
        check_state_fits((abstract_state(config, self.mesh, self.optimizer), frozen), self.mesh, config)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for saves under way, and leave the run folder to others."""
        self._open.close()

    # The numbers

    def init(self, model: GPT | None = None) -> TrainState:
        """The state before the first update: fresh weights from `config.seed`, or a copy of a model's.

        Raises UserError where the model is not one of `config.model`.
        """
        if model is None:
            return initial_state(self.config, self.mesh, self.optimizer)
        return self.take(jax.tree.map(jnp.copy, model))

    def take(self, model: GPT) -> TrainState:
        """`init` without the copy: the model's arrays become the state's, and are gone."""
        like = abstract_model(self.config.model)
        shapes = [jax.tree.map(jnp.shape, jax.tree.leaves(part)) for part in (model, like)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the model is {_differences(model.config.to_dict(), self.config.model.to_dict())} in config.model; "
                "use one config for both"
            )
        model = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(model))
        return state_from(self.config, self.mesh, shard(model, self.mesh), self.optimizer)

    def batch(self, i: int) -> Int[Array, "B T+1"]:
        """The i-th batch on its devices: a pure function of i and `config.seed`."""
        return self._device_batches(i)

    @cached_property
    def _device_batches(self) -> DeviceBatches:
        tokens = abstract_batch(self.config, self.mesh)
        return DeviceBatches(self.batches, tokens.shape, tokens.sharding)

    @cached_property
    def batches(self) -> Batches:
        """The batches as arrays of the host."""
        config = self.config
        return Batches(
            self.data.train,
            config.batch_size,
            config.model.context_length,
            config.seed,
            order=config.data.order,
            block_shuffle=config.data.block_shuffle,
            vocab_size=config.model.vocab_size,
        )

    def step(self, state: TrainState, tokens: Int[Array | np.ndarray, "B T+1"]) -> tuple[TrainState, Metrics]:
        """One update. The state given is used up: its arrays are donated to the new one.

        Raises UserError where the tokens have another shape than [batch_size, context_length + 1].
        """
        like = abstract_batch(self.config, self.mesh)
        if tokens.shape != like.shape:
            raise UserError(
                f"tokens are {list(tokens.shape)}; batch_size and context_length + 1 are {list(like.shape)}"
            )
        if not isinstance(tokens, jax.Array):
            tokens = jax.device_put(np.asarray(tokens, np.int32), like.sharding)
        with memory_errors(self.config):
            return self.compiled[0](state, tokens, self.teacher)

    @cached_property
    def end_of_text(self) -> int | None:
        """The token where documents begin, if they are masked. Raises UserError where that cannot be."""
        if not self.config.data.mask_documents:
            return None
        if self.loss is not None:
            raise UserError(
                "data.mask_documents is for jaxgpt's own losses: leave it out, and mask in yours by "
                "model(tokens, key, segment_ids)"
            )
        end = None if self.data.tokenizer is None else self.data.tokenizer.end_of_text
        if end is None:
            of = "token ids from Python" if self.data.tokenizer is None else f"tokenizer {self.data.tokenizer.name!r}"
            raise UserError(
                f"data.mask_documents needs <|endoftext|> between documents, and {of} have none; leave it out"
            )
        return end

    @cached_property
    def compiled(self) -> tuple[Compiled, str]:
        """The compiled step, and the remat that it was compiled with."""
        shapes = abstract_state(self.config, self.mesh, self.optimizer), abstract_batch(self.config, self.mesh)
        rule: dict[str, Any] = {"optimizer": self.optimizer, "loss": self.loss, "end_of_text": self.end_of_text}
        with memory_errors(self.config):
            return compile_step(self.config, self.mesh, *shapes, self.teacher, **rule, limit=memory_limit(self.mesh))

    def steps(self, state: TrainState) -> Iterator[tuple[TrainState, Metrics]]:
        """Update by update from a state to `config.steps`; after a rollback, past the batches that it left out."""
        first, offset = int(state.step), int(state.data_offset)
        for done in range(first, self.config.steps):
            state, metrics = self.step(state, self.batch(done + offset))
            yield state, metrics

    def validate(self, state: TrainState, batches: int | None = None) -> float:
        """The next-token loss on held-out text, in nats per token, whatever loss is trained on."""
        with memory_errors(self.config):
            return self._validation(state.model, batches)

    def evaluate_tasks(self, state: TrainState) -> dict[str, float]:
        """The standard evaluations of `config.eval_tasks`: a number for each metric, such as hellaswag_acc_norm."""
        return self._task_metrics(state.model)

    @cached_property
    def _task_metrics(self) -> "TaskMetrics":
        from jaxgpt.evaluation.tasks.in_training import TaskMetrics  # only here: all tasks, which few runs ask

        config, tokenizer = self.config, self.data.tokenizer
        if tokenizer is None or config.eval_tasks is None:
            raise UserError(
                f"eval_tasks={config.eval_tasks!r} needs text and its tokenizer: name both, or leave it out"
            )
        folder = None if config.eval_tasks_data is None else Path(config.eval_tasks_data).expanduser()
        return TaskMetrics.create(config.eval_tasks, tokenizer, limit=config.eval_tasks_limit, folder=folder)

    @cached_property
    def _validation(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return compile_validation(self.config, self.data.validation, self.mesh, self.end_of_text)

    def compile(self, *, validation: bool = True) -> None:
        """Compile all programs now, one beside the other, instead of at their first use."""
        with ThreadPoolExecutor() as pool:
            made = [pool.submit(lambda: self.compiled)]
            if validation:
                made.append(pool.submit(lambda: self._validation))
            for each in made:
                each.result()

    # The folder

    @cached_property
    def run(self) -> Run:
        """The run in `folder`, on disk or to be made; this process holds its lock from here on.

        Raises UserError where the folder holds something else, another run, or a run that another process trains.
        """
        folder = self.folder = self.folder or default_folder(self.name)
        if from_main_process(lambda: is_run(folder)):
            run = reconfigured(read_run(folder), self.config, self.from_python)
            run.check_data(self.data)
        else:
            on_main_process(lambda: check_is_new(folder))
            run = new_run(folder, self.config, self.data, self.from_python)
        return run

    def create(self, weights: Callable[[], TrainState] | None = None) -> Run:
        """Make the run folder; with weights its checkpoint of step 0, so that nothing else is needed to resume.

        config.json comes last: what is killed before counts as not there.
        """
        run = self.run
        on_main_process(self._lock)
        if from_main_process(lambda: not is_run(run.folder)):
            on_main_process(lambda: create_folder(run))
            if weights is not None:
                self.checkpoints.save(weights())
                self.checkpoints.wait()
        on_main_process(lambda: write_config(run))
        on_main_process(lambda: write_readme(run))
        return run

    def _lock(self) -> None:
        """Hold the run's folder, and delete what killed saves left in it."""
        folder, was_run = self.run.folder, is_run(self.run.folder)
        with refused_by_the_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._open.enter_context(run_lock(folder))
        if not was_run:
            check_is_new(folder)  # another process may have been faster
        self.run.open_checkpoints().sweep()

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return self._open.enter_context(self.run.open_checkpoints())

    def save(self, state: TrainState, val_loss: float | None = None) -> None:
        """Write a checkpoint, whole on disk when this returns; with a val_loss it can be the best.

        Raises UserError where the disk is full, or another process trains in the folder.
        """
        if "checkpoints" not in vars(self):
            self.create()
        self.checkpoints.save(state, float("inf") if val_loss is None else val_loss)
        self.checkpoints.wait()

    def restore(self, which: Which = "latest") -> TrainState:
        """The state of the newest checkpoint in the folder, of the best, or of a step, on this trainer's mesh.

        Raises UserError where there is none, or it is damaged or of another run, config or optimizer.
        """
        checkpoints = self.checkpoints
        return checkpoints.restore_state(self.config, checkpoints.find(which), self.mesh, self.optimizer)


def default_folder(name: str) -> Path:
    """Where a run goes that was given no folder."""
    return runs_folder() / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _name(thing: object) -> str:
    """How a loss or an optimizer is called in messages."""
    return getattr(thing, "__qualname__", type(thing).__name__)


def _differences(these: dict[str, object], those: dict[str, object]) -> str:
    return " and ".join(f"{name}={these[name]!r}, not {those[name]!r}" for name in these if these[name] != those[name])
