"""Training with data.mask_documents: no token attends across <|endoftext|>."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

import jaxgpt
from jaxgpt import TrainConfig, Trainer
from jaxgpt.config import GPTConfig
from jaxgpt.data import TokenData, eval_batches
from jaxgpt.data.hf_tokenizer import train_bpe
from jaxgpt.errors import UserError
from jaxgpt.model.loss import next_token_loss
from jaxgpt.parallel.mesh import make_mesh, one_device
from jaxgpt.training.config import DataConfig
from tests.runs import quick

END = 0
MODEL = GPTConfig.preset("tiny", vocab_size=260, num_layers=1, position="rotary", dropout=0.1, context_length=16)
DATA = DataConfig(mask_documents=True)
CONFIG = dataclasses.replace(TrainConfig.preset("tiny"), model=MODEL, data=DATA, microbatches=2, remat="block", steps=4)


@pytest.fixture(scope="module")
def data():
    """A document ends about every ninth token."""
    ids = np.random.default_rng(0).integers(0, 260, 4000, dtype=np.uint16)
    ids[np.random.default_rng(1).random(4000) < 1 / 9] = END
    splits = {"train": {"tokens": 3000}, "validation": {"tokens": 1000}}
    tokenizer = train_bpe(["low lower lowest"] * 3, 260)
    return TokenData(ids[:3000], ids[3000:], tokenizer, {"source": "x", "source_hash": "0", "splits": splits})


@pytest.mark.slow
def test_steps_and_validation_read_documents_alone_on_every_mesh(data):
    found = []
    for sizes in ((1, 1), (1, 2)):
        with Trainer(CONFIG, data=data, mesh=make_mesh(*sizes, jax.devices()[: sizes[0] * sizes[1]])) as trainer:
            state = trainer.init()
            rows = eval_batches(data.validation, CONFIG.batch_size, 16, CONFIG.eval_batches).reshape(-1, 17)
            loss, without = (
                float(quick(partial(next_token_loss, end_of_text=end))(state.model, rows)) for end in (END, None)
            )
            assert trainer.validate(state) == pytest.approx(loss, rel=1e-5)
            assert abs(loss - without) > 1e-5
            _, metrics = trainer.step(state, trainer.batch(0))
            found.append((float(metrics.loss), float(metrics.grad_norm)))
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_masks_on(data, tmp_path):
    train = partial(jaxgpt.train, data=data, mesh=one_device(), quiet=True)
    once = train(CONFIG, folder=tmp_path / "once")
    half = train(
        CONFIG, folder=tmp_path / "run", callbacks=[lambda step, *_: "stop" if step == 2 else None], log_every=2
    )
    assert half.history[-1]["step"] == 2
    resumed = train(folder=tmp_path / "run", resume=True)
    assert resumed.run.config.data.mask_documents
    for ours, theirs in zip(jax.tree.leaves(resumed.model), jax.tree.leaves(once.model), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    with pytest.raises(UserError, match="mask_documents"):
        train(folder=tmp_path / "run", resume=True, mask_documents=False)


def test_what_cannot_mask_documents_is_refused_by_name(data):
    with pytest.raises(UserError, match="data.mask_documents with attention='cudnn': .*attention='auto'"):
        dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, attention="cudnn"))
    with pytest.raises(UserError, match="needs <|endoftext|> between documents, and token ids from Python have none"):
        Trainer(CONFIG, data=data.train)
    with pytest.raises(UserError, match="is for jaxgpt's own losses: .* by model.tokens, key, segment_ids."):
        Trainer(CONFIG, data=data, loss=lambda model, tokens, key: model(tokens).mean())
