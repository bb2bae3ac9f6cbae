"""Everything a training run is made of."""

import dataclasses
import difflib
from typing import Annotated, Any, Literal

import tyro

from jaxgpt.config import GPTConfig
from jaxgpt.data.mixture import parse_mixture
from jaxgpt.errors import UserError
from jaxgpt.fields import check_types
from jaxgpt.parallel.mesh import MeshConfig

CORPORA = ("stdlib", "shakespeare")
"""Texts with a name; any other source is a path."""

TRACKERS = ("tensorboard", "csv", "wandb")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read, and in which tokens.

    Raises UserError where the source names nothing.

    Example:
        >>> from jaxgpt import DataConfig, TrainConfig
        >>> TrainConfig(data=DataConfig("book.txt", tokenizer="char")).data.source
        'book.txt'
    """

    source: str | None = "stdlib"
    """stdlib (Python's own source and documentation), shakespeare, the path of a text file or folder, a folder made by
    `jaxgpt data prepare`, or token files of nanoGPT, llm.c, modded-nanogpt or NeMo. None: it must be named."""
    tokenizer: str = "gpt2"
    """gpt2: the 50257 byte-pair tokens of GPT-2. bpe-2048: at most so many, learnt from the text itself (of a mixture:
    from the first). char: one token for each character of the text. A folder: its own. Prepared data have theirs."""
    mixture: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """SOURCE=WEIGHT, once for each source: rows from all of them, in place of `source`."""
    val_source: str | None = None
    """Where validation comes from. None: from what the sources hold back."""
    block_shuffle: bool = False
    """Shuffle blocks of about a megabyte, and rows only among 16 of them: for slow disks."""
    mask_documents: bool = False
    """Let no token attend across <|endoftext|>, and start positions again in each document. Not for cuDNN."""
    order: Literal["every-token", "v0.1"] = "every-token"
    """every-token: an epoch passes over every token once. v0.1: as runs that version 0.1 began."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("source", "val_source"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise UserError(f"data.{name}={value!r} names nothing: give stdlib, shakespeare, or the path of a text")
        if self.mixture:
            parse_mixture(self.mixture)
        if self.order == "v0.1" and (self.mixture or self.block_shuffle):
            raise UserError("data.order='v0.1' knows no mixture and no block_shuffle: leave it out")

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "DataConfig":
        """The data of a run. Runs of version 0.1 name no order: theirs is kept."""
        return cls(**{"order": "v0.1", **fields, "mixture": tuple(fields.get("mixture", ()))})


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its learning rate: by default AdamW under a linear warm-up and a cosine.

    Raises UserError where a number is outside its range.

    Example:
        >>> from jaxgpt import OptimizerConfig, TrainConfig
        >>> TrainConfig(optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200)).optimizer.beta2
        0.95
    """

    learning_rate: float = 6e-4
    """The peak, reached after the warm-up."""
    final_learning_rate: float = 6e-5
    """Where the schedule ends, at the last step."""
    warmup_steps: int = 100
    """Steps of linear rise from 0."""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """After the warm-up. cosine, linear: fall to the final rate. wsd: the peak, then a linear fall (Hu et al. 2024).
    constant: the peak."""
    cooldown: float = 0.2
    """The share of the steps, at their end, over which wsd falls."""
    name: Literal["adamw", "muon", "lion", "sgd"] = "adamw"
    """adamw (Loshchilov & Hutter 2019), muon (Jordan et al. 2024; tables and vectors by AdamW, for which the same
    learning rate is right), lion (Chen et al. 2023; wants a tenth of the rate), or sgd with momentum."""
    weight_decay: float = 0.1
    """On matrices and embedding tables; never on biases and LayerNorms."""
    beta1: float = 0.9
    """Decay of the gradient's running mean."""
    beta2: float = 0.95
    """Decay of the squared gradient's running mean; of lion, of the momentum."""
    momentum: float = 0.95
    """Of muon's matrices and of sgd: the decay of the gradients' running sum."""
    clip_norm: float = 1.0
    """Gradients are scaled down to at most this global norm."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("final_learning_rate", "warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}={getattr(self, name)} must not be below 0")
        if not 0 < self.cooldown <= 1:
            raise UserError(f"cooldown={self.cooldown} is a share of the steps: it must be above 0 and at most 1")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run: the flags of `jaxgpt train`, as a value.

    Raises UserError where a field is not of its type or range, or two do not fit each other.

    Example:
        >>> import dataclasses
        >>> from jaxgpt import MeshConfig, TrainConfig
        >>> config = dataclasses.replace(TrainConfig.preset("tiny"), steps=300, mesh=MeshConfig(fsdp=8))
        >>> TrainConfig.from_dict(config.to_dict()) == config
        True
        >>> dataclasses.replace(config, microbatches=3)
        Traceback (most recent call last):
        jaxgpt.errors.UserError: batch_size=8 is not a multiple of microbatches=3; change one
    """

    model: GPTConfig = dataclasses.field(default_factory=GPTConfig)
    """The architecture."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """The text."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """How devices share the work; the numbers that come out do not depend on it."""
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    """How weights move."""
    init: str | None = None
    """Start from the weights of this source (a run, an HF folder or hub id, a weights file) instead of random ones."""
    distill: str | None = None
    """Learn the next-token distribution of the model at this source, instead of the text's own next tokens."""
    lora: int | None = None
    """Train adapters of this rank on every linear map in place of the weights, which stay as they are (Hu et al. 2021):
    less memory. Loading and converting merge them. None: train all weights."""
    lora_alpha: float | None = None
    """Adapters are added alpha / rank times. None: twice."""
    steps: int = 1000
    """Updates of the weights."""
    batch_size: int = 32
    """Sequences per update."""
    microbatches: int = 1
    """Pieces that a batch is computed in: less memory, the same update."""
    zero: Literal[1, 2, 3] = 3
    """What mesh.fsdp saves. 3: a block's parameters are whole only while in use. 2: they stay whole for the backward
    pass. 1: they and their gradients are whole for the whole step; least is sent. The state at rest is cut always."""
    grad_dtype: Literal["float32", "bfloat16"] = "float32"
    """In what gradients travel between devices. bfloat16: half the bytes, and sums rounded to 8 bits."""
    remat: Literal["auto", "none", "block", "full"] = "auto"
    """What the backward pass computes again. none: nothing. block: all but what enters each block. full: all but what
    enters some. auto: none where it fits the device, else block."""
    seed: int = 0
    """Of the weights, the data order and dropout."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    eval_every: int = 250
    """Steps between two validations; a checkpoint is saved with each."""
    eval_batches: int = 20
    """Batches of held-back text that a validation reads, always the same ones."""
    eval_tasks: str | None = None
    """Standard evaluations on the way, with commas between, such as hellaswag,lambada."""
    eval_tasks_every: int = 1000
    """Steps between two of these evaluations; the last step has one too."""
    eval_tasks_limit: int | None = 500
    """Questions of each task, always the same ones. None: all."""
    eval_tasks_data: str | None = None
    """A folder with the tasks' files. None: downloaded once, and kept in the user's cache."""
    keep_checkpoints: int = 2
    """The latest so many checkpoints are kept, and the best."""
    keep_every: int | None = None
    """Checkpoints of steps that are multiples of this are kept too."""
    on_failed_save: Literal["stop", "go_on"] = "stop"
    """Where a checkpoint cannot be written, such as on a full disk; the one before it stays. go_on: train on, and try
    again at the next validation."""
    on_nonfinite: Literal["stop", "skip", "rewind"] = "stop"
    """Where a loss or gradient is NaN or infinite. stop: end the run. skip: leave that update out. rewind: go back to
    the newest checkpoint, and past the batches since."""
    spike: float | None = None
    """A loss of so many nats above its running mean counts as not finite. None: no loss does."""
    patience: int | None = None
    """Stop after so many validations in a row without a new lowest loss. None: never before the last step."""
    sample_tokens: int = 128
    """Length of the sample written after the last step; 0: none."""
    sample_prompt: str | None = None
    """What a sample continues; where training starts from weights there is then one before the first step, too. None:
    the beginning of a text."""
    trackers: str = "tensorboard"
    """Where metrics go beside metrics.jsonl, with commas between: tensorboard, csv, wandb (pip install 'jaxgpt[wandb]';
    the variable WANDB_PROJECT names its project). none: nowhere else."""
    profile: str | None = None
    """FIRST:LAST: what the devices do in these steps is traced, into the run's folder `profile`."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in (
            "batch_size",
            "microbatches",
            "log_every",
            "eval_every",
            "eval_batches",
            "eval_tasks_every",
            "eval_tasks_limit",
            "keep_checkpoints",
            "keep_every",
            "lora",
            "patience",
        ):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("steps", "sample_tokens", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must not be below 0")
        if self.data.mask_documents and self.model.attention == "cudnn":
            raise UserError(
                "data.mask_documents with attention='cudnn': jax gives cuDNN no mask without the T x T scores; "
                "use attention='auto', which is blocked then, or leave mask_documents out"
            )
        if self.lora_alpha is not None and (self.lora is None or not self.lora_alpha > 0):
            raise UserError(f"lora_alpha={self.lora_alpha} must be above 0, and beside it lora, the rank")
        if self.spike is not None and not self.spike > 0:
            raise UserError(f"spike={self.spike} must be above 0 nats; None lets any loss pass")
        if self.batch_size % self.microbatches:
            raise UserError(
                f"batch_size={self.batch_size} is not a multiple of microbatches={self.microbatches}; change one"
            )

        for name in self.tracker_names:
            if name not in TRACKERS:
                close = difflib.get_close_matches(name, TRACKERS, n=1)
                nearest = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(TRACKERS)}, none"
                raise UserError(f"trackers={self.trackers!r}: there is no {name!r}; {nearest}")

        if self.profile is not None and not self.profiled_steps:
            raise UserError(
                f"profile={self.profile!r} must be FIRST:LAST, such as 10:20, with 1 <= FIRST <= LAST <= steps"
            )

    @property
    def profiled_steps(self) -> range:
        """The steps that are traced."""
        first, _, last = (self.profile or "").partition(":")
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= self.steps):
            return range(0)
        return range(int(first), int(last) + 1)

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """The trackers, each once."""
        named = (name.strip() for name in self.trackers.split(","))
        return tuple(dict.fromkeys(name for name in named if name not in ("", "none")))

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_dict`. Raises UserError on a field that does not exist."""
        try:
            return cls(
                **{
                    **_with_trackers(fields),
                    "model": GPTConfig.from_dict(fields["model"]),
                    "data": DataConfig.from_dict(fields["data"]),
                    "mesh": MeshConfig(**fields.get("mesh", {})),  # runs of version 0.1 have none
                    "optimizer": OptimizerConfig(**fields["optimizer"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"this is not the config of a run made by this version: {error}") from error

    @classmethod
    def preset(cls, name: str) -> "TrainConfig":
        """A named run. Raises UserError on an unknown name."""
        from jaxgpt.training.presets import PRESETS

        if name not in PRESETS:
            close = difflib.get_close_matches(name, PRESETS, n=1)
            raise UserError(
                f"there is no preset {name!r}; "
                + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(PRESETS)}")
            )
        return PRESETS[name].config


def _with_trackers(fields: dict[str, Any]) -> dict[str, Any]:
    """Runs of earlier versions have a field `wandb`, and always write TensorBoard's file."""
    fields = {**fields}
    if fields.pop("wandb", False) is True:
        fields["trackers"] = "tensorboard,wandb"
    return fields
