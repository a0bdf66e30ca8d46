"""SEEChat: the demo's prompt over several rounds, the pieces of a folder joined."""

import json

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check.demo import byte_tokenizer
from polymodal.check.evidence.seechat import small
from polymodal.check.evidence.visualglm import SPECIALS
from polymodal.check.fixture import official_weights, read
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.errors import PromptError
from polymodal.systems import get

PICTURE = pm.image(np.zeros((4, 4, 3), dtype=np.uint8))
FORMAT = get("seechat").formats[0]
DESCRIBE = "\u8be6\u7ec6\u63cf\u8ff0\u8fd9\u5f20\u56fe\u7247"


def test_prompt(tmp_path):
    size = byte_tokenizer(tmp_path, SPECIALS, eos="<eop>", pad="<pad>")
    loaded = FORMAT.model_spec(small(size, 0)).assemble(None, CheckpointFiles(tmp_path))
    tokenizer = loaded.processor.tokenizer

    def shown(*messages, generate):
        said, row = "", loaded.processor.encode(list(messages), generate=generate)
        run = []
        for index in (*row.input_ids, size):  # bytes of one sign are read together
            if index == size:
                said, run = said + tokenizer.decode(run, skip_special=False) + "I", []
            else:
                run.append(index)
        return said[:-1]

    told = Message(role="assistant", parts=(Text("\u732b"),))
    asked = (user(PICTURE, DESCRIBE),)
    first = f"###Human: <Img>IIII</Img> {DESCRIBE} ###Assistant: "
    assert shown(*asked, generate=True) == f"{first}[gMASK]<sop>"
    assert shown(*asked, told, generate=False) == f"{first}[gMASK]<sop>\u732b<eop>"
    talk = (*asked, told, user("Why?"))
    assert shown(*talk, generate=True) == f"{first}\u732b###Human: Why? ###Assistant: [gMASK]<sop>"
    assert shown(user("Why?"), generate=True) == "###Human: Why? ###Assistant: [gMASK]<sop>"
    assert loaded.stop == ("###",)
    with pytest.raises(PromptError, match="takes 1 picture"):
        shown(user(PICTURE, "Who?"), told, user(PICTURE, "And this?"), generate=True)


def test_published_pieces(tmp_path):
    about, tensors = read("seechat")
    weights = official_weights(about)

    def under(*names, cut=""):
        return {name.removeprefix(cut): x for name, x in weights.items() if name.startswith(names)}

    torch.save(under("visual_encoder.", cut="visual_encoder."), tmp_path / "eva_vit_g.pth")
    blip = under("Qformer", "query", "ln_vision") | {"t5_proj.weight": torch.ones(2, 2)}
    torch.save({"model": blip}, tmp_path / "blip2_pretrained_flant5xxl.pth")
    torch.save({"model": under("llama_proj")}, tmp_path / "checkpoint_100.pth")
    (tmp_path / "chatglm-6b").mkdir()
    language = under("llama_model.", cut="llama_model.")
    language["transformer.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(4)
    torch.save(language, tmp_path / "chatglm-6b" / "pytorch_model.bin")
    (tmp_path / "chatglm-6b" / "config.json").write_text(json.dumps({"model_type": "chatglm"}))
    (tmp_path / "config.json").write_text(about["config"])
    model = pm.load(tmp_path, system="seechat")
    given = {name[3:]: x for name, x in tensors.items() if name.startswith("in.")}
    real = tensors["in.attention_mask"].bool()
    assert (model.logits(**given) - tensors["out.logits"])[real].abs().max() <= 1e-4
