"""Captioners: the real BLIP and BLIP-2 classes with tiny random weights, saved and loaded like those of the hub."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

from modules.diffusion.captioner import Captioner
from modules.extractors import InversionExtractor

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<image>", *["a", "photo", "of", "the", "dark", "bright", "cat", "dog", "house", "tree"]]
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def tokenizer():
    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "bos_token": "[CLS]",
        "cls_token": "[CLS]",
        "eos_token": "[SEP]",
        "sep_token": "[SEP]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=base, **special)


def save_blip(folder):
    text = SIZES | {
        "vocab_size": len(WORDS),
        "bos_token_id": 2,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "encoder_hidden_size": 16,
    }
    config = BlipConfig(text_config=text, vision_config=SIZES | {"image_size": 32, "patch_size": 8})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer()).save_pretrained(folder)


def save_blip2(folder):
    text = {
        "model_type": "opt",
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "ffn_dim": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text |= {"word_embed_proj_dim": 16, "max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = Blip2Config(
        vision_config=SIZES | {"image_size": 32, "patch_size": 8},
        qformer_config=SIZES | {"vocab_size": len(WORDS), "encoder_hidden_size": 16},
        text_config=text,
        num_query_tokens=4,
        image_token_index=4,
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    Blip2Processor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer(), num_query_tokens=4).save_pretrained(folder)


@pytest.fixture(params=[save_blip, save_blip2], ids=["blip", "blip-2"])
def captioner(request, tmp_path):
    torch.manual_seed(0)
    request.param(tmp_path)
    return str(tmp_path)


def images(level):
    return torch.full((3, 3, 40, 40), level, dtype=torch.uint8)


def test_one_caption_an_image(captioner):
    captions = Captioner.from_pretrained(captioner)(images(90))
    assert len(captions) == 3
    assert all(isinstance(caption, str) for caption in captions)
    assert captions == Captioner.from_pretrained(captioner)(images(90))


def test_the_processor_sees_the_image_in_its_own_range(captioner, monkeypatch):
    """A float image would be scaled twice and look black."""
    built = Captioner.from_pretrained(captioner)
    seen = []
    generate = built.network.generate
    monkeypatch.setattr(
        built.network, "generate", lambda pixel_values, **kwargs: (seen.append(pixel_values), generate(pixel_values, **kwargs))[1]
    )
    built(images(0))
    built(images(255))
    assert float(seen[1].mean() - seen[0].mean()) > 3  # 1 / std of the normalisation, which is about 0.27
    with pytest.raises(TypeError, match="uint8"):
        built(images(90).float() / 255)


def test_the_extractor_uses_it(captioner):
    extractor = InversionExtractor(size=64, steps=1, prompt_source="captioner", captioner=captioner)
    extractor.load()
    prompts = extractor.prompts_for(images(90), ["ignored"] * 3)
    assert prompts == Captioner.from_pretrained(captioner)(images(90))


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="BLIP and BLIP-2 are supported"):
        Captioner.from_pretrained("assets/tiny-diffusion/text_encoder")
