"""lm-evaluation-harness asks the server as it asks any of OpenAI's kind."""

import numpy as np
import pytest

from jaxgpt.data.hf_tokenizer import write_tokenizer
from tests.variants import forward

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_its_local_completions_get_the_models_log_likelihoods(serve, model, tokenizer, tmp_path):
    pytest.importorskip("tenacity", reason="lm-eval asks servers only as lm-eval[api]")
    completions = pytest.importorskip("lm_eval.models.openai_completions")
    from lm_eval.api.instance import Instance

    write_tokenizer(tokenizer, tmp_path, context_length=64)
    address, _ = serve()
    client = completions.LocalCompletionsAPI(
        base_url=f"{address}/v1/completions", model="tiny", tokenizer=str(tmp_path), max_length=64, num_concurrent=1
    )
    pairs = [("low newer", " newest"), ("wide", " wider low")]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    for (context, continuation), (found, greedy) in zip(pairs, client.loglikelihood(asked), strict=True):
        ids, start = tokenizer.encode(context + continuation), len(tokenizer.encode(context))
        padded = np.pad(ids.astype(np.int32), (0, 24 - len(ids)))
        scores = np.asarray(forward(model, padded[None]))[0, :, : tokenizer.vocab_size].astype(np.float64)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        places = np.arange(start - 1, len(ids) - 1)
        assert found == pytest.approx(scores[places, ids[start:]].sum(), abs=1e-3)
        assert greedy == (scores[places].argmax(-1) == ids[start:]).all()
