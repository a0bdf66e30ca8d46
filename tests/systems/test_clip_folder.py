"""CLIP from a folder with a tokenizer: classes by name, vectors, pictures prepared as the library prepares them."""

from pathlib import Path

import pytest
import torch

import polymodal as pm
from polymodal.data.zero_shot_prompts import IMAGENET, PHOTO
from polymodal.pipelines.zero_shot import search
from tiny_clip import tiny_clip

transformers = pytest.importorskip("transformers")
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def test_zero_shot_equals_the_librarys_model_on_the_published_prompts(folder: Path) -> None:
    model = pm.load(folder, system="clip")
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    from PIL import Image

    pixels = transformers.CLIPImageProcessorPil.from_pretrained(folder)(Image.open(CAT), return_tensors="pt")
    rows = []
    with torch.no_grad():
        for label in ("cat", "dog", "green tea"):
            vectors = []
            for template in IMAGENET:
                ids = tokenizer(template.format(label))["input_ids"][:75]
                ids = [tokenizer.vocab["<|startoftext|>"], *ids, tokenizer.vocab["<|endoftext|>"]]
                found = theirs.get_text_features(torch.tensor([ids])).pooler_output[0]
                vectors.append(found / found.norm())
            mean = torch.stack(vectors).mean(0)
            rows.append(mean / mean.norm())
        image = theirs.get_image_features(**pixels).pooler_output[0]
        expected = (theirs.logit_scale.exp() * torch.stack(rows) @ (image / image.norm())).softmax(0)
    labels = model.classify(str(CAT), ["cat", "dog", "green tea"])
    found = {label.label: label.probability for label in labels}
    for label, probability in zip(("cat", "dog", "green tea"), expected.tolist(), strict=True):
        assert abs(found[label] - probability) < 1e-4


def test_vectors_and_search(folder: Path) -> None:
    model = pm.load(folder, system="clip")
    vectors = model.embed([str(CAT), pm.text("a cat"), pm.text("cats " * 60)])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert search(vectors[1:2], vectors, 2)[0, 0] == 1


def test_eighty_prompts() -> None:
    assert len(set(IMAGENET)) == 80 and all(prompt.count("{}") == 1 for prompt in IMAGENET + PHOTO)
