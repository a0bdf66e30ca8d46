"""KOSMOS-2 goes on behind padding, and behind a padding id it wrote itself, exactly as the library does."""

from pathlib import Path

import pytest
import torch

import polymodal as pm


def test_generation_behind_padding_equals_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from polymodal.check.evidence.kosmos_2 import inputs, tiny
    from polymodal.check.library import filled, greedy, quiet

    with quiet() as transformers:
        settings = tiny(transformers, {}, {})
        oracle = filled(transformers.Kosmos2ForConditionalGeneration(settings).eval())
        with torch.no_grad():
            # Whatever it has read, the padding id is likely next; it has no place of its own.
            weight = oracle.text_model.lm_head.weight
            weight[1] = weight.sum(0) * 0.2
        oracle.save_pretrained(tmp_path)
        given = inputs(settings)
        wanted = greedy(oracle, given, {})
    found = pm.load(tmp_path).generate(**given, max_new_tokens=16, eos_token_id=None, pad_token_id=0)
    assert torch.equal(found, wanted)
    assert not bool(given["attention_mask"].all())
