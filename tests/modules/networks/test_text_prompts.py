"""Zero-shot weights, against open_clip's own calls and NumPy."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modules.errors import ModelError
from modules.networks.encoders import build_encoder
from modules.networks.text_prompts import prompt_weights
from tests.modules.networks.encoders import TINY, add_tiny

# The vocabulary of open_clip's own tokeniser, which needs no download.
TEXT = TINY["text_cfg"] | {"vocab_size": 49408}
PROMPTS = {"real": ["a photo"], "fake": ["a generated image", "an image made by a neural network"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return add_tiny(tmp_path_factory.mktemp("clip"), "tiny-prompts", text_cfg=TEXT)


@pytest.fixture(scope="module")
def stored(tiny, tmp_path_factory):
    import open_clip

    torch.manual_seed(3)
    model = open_clip.create_model("tiny-prompts").eval()
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    save_file(model.state_dict(), path)
    return model, f"{tiny}/{path}"


def written_out(model, texts):
    import open_clip

    tokens = open_clip.get_tokenizer("tiny-prompts")(texts)
    with torch.no_grad():
        raw = model.encode_text(tokens).double().numpy()
    mean = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).mean(0)
    return mean / np.linalg.norm(mean) * np.exp(model.logit_scale.item())


def test_weights_are_normalised_means_of_normalised_texts_times_the_logit_scale(stored):
    model, name = stored
    weights = prompt_weights(name, PROMPTS)
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    expected = np.stack([written_out(model, texts) for texts in PROMPTS.values()])
    assert np.allclose(weights.numpy(), expected, atol=1e-5)


def test_their_product_with_an_images_embedding_is_what_the_model_says(stored):
    import open_clip

    model, name = stored
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoder = build_encoder(name)
    tokens = open_clip.get_tokenizer("tiny-prompts")(["a photo", "a drawing"])
    with torch.no_grad():
        logits, _ = model.get_logits((images - encoder.shift) / encoder.scale, tokens)
        queries = torch.nn.functional.normalize(encoder(images), dim=1)
    weights = prompt_weights(name, {"real": ["a photo"], "fake": ["a drawing"]})
    assert torch.allclose(queries @ weights.T, logits, atol=1e-4)


def test_random_weights_are_the_same_every_time_and_leave_the_callers_random_numbers_alone(tiny):
    torch.manual_seed(5)
    first, drawn = prompt_weights(tiny, PROMPTS, pretrained=False), torch.rand(1)
    second = prompt_weights(tiny, PROMPTS, pretrained=False)
    torch.manual_seed(5)
    assert torch.equal(first, second)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm/test_vit", "reads no texts"),
        ("open_clip/no-such-model/x", "no-such-model"),
        ("open_clip/ViT-L-14/no_such_tag", "no_such_tag"),
        ("open_clip/ViT-L-14", "name weights"),
        ("nonsense", "nonsense"),
    ],
)
def test_encoders_that_cannot_be_had(name, says):
    with pytest.raises(ModelError, match=says):
        prompt_weights(name, PROMPTS)


def test_a_file_of_something_else(tiny, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="cannot be embedded"):
        prompt_weights(f"{tiny}/{path}", PROMPTS)


@pytest.mark.parametrize("prompts", [{}, {"real": []}, {"real": ["a photo"], "fake": []}, {"real": [" "]}, {"real": "a photo"}])
def test_classes_without_prompts(tiny, prompts):
    with pytest.raises(ModelError, match="each class needs"):
        prompt_weights(tiny, prompts, pretrained=False)
