"""A folder of the library's CLIP in small."""

from pathlib import Path

from polymodal.check.randomise import fill


def tiny_clip(place: Path) -> Path:
    """A tiny CLIP and a tokenizer of single letters in CLIP's own format, written to a folder."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocabulary = {token: index for index, token in enumerate([*letters, *(x + "</w>" for x in letters)])}
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    pipeline = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    pipeline.normalizer = normalizers.Lowercase()
    pipeline.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pipeline.decoder = decoders.BPEDecoder(suffix="</w>")
    pipeline.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    pipeline.save(str(place / "tokenizer.json"))
    text = {"hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 1, "num_attention_heads": 2,
            "vocab_size": len(vocabulary), "eos_token_id": vocabulary["<|endoftext|>"]}  # fmt: skip
    vision = {"hidden_size": 24, "intermediate_size": 30, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 7}  # fmt: skip
    theirs = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    fill(theirs.eval())
    theirs.save_pretrained(place)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28).save_pretrained(place)
    return place
