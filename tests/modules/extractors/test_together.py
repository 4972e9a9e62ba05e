"""Several extractors as one: the numbers are those of each alone."""

import pytest
import torch

from modules.errors import UnusableImageError
from modules.extractors.colour import ColourExtractor
from modules.extractors.complexity import Complexity
from modules.extractors.embedding import EmbeddingExtractor
from modules.extractors.inversion import InversionExtractor
from modules.extractors.similarity import PerturbationSimilarity
from modules.extractors.together import Together
from modules.settings import from_settings
from tests.modules.networks.encoders import add_tiny

CAPTIONS = ["a coin", None, "a cat"]
SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return add_tiny(tmp_path_factory.mktemp("clip"), "tiny-together")


@pytest.fixture(scope="module")
def members(encoder):
    return {
        "noise": InversionExtractor(size=64, steps=1),
        "clip": EmbeddingExtractor(encoder, pretrained=False),
        "rigid": PerturbationSimilarity(encoder, pretrained=False),
        "control": Complexity(),
    }


@pytest.fixture(scope="module")
def together(members):
    built = Together(members)
    built.load()
    return built


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (3, 3, 70, 90), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def run(extractor, images, prepared=False):
    stack = images if prepared else torch.stack([extractor.prepare(image) for image in images])
    with torch.no_grad():
        return extractor(stack, extractor.prompts_for(stack, CAPTIONS), SEEDS)


def test_features_are_exactly_those_of_each_alone(together, members, images):
    found = run(together, images)
    expected = {f"{name}.{feature}": tensor for name, member in members.items() for feature, tensor in run(member, images).items()}
    assert found.keys() == expected.keys()
    assert "noise.reconstruction" in found
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with torch.no_grad():
        extracted, failed = together.extract(images, together.prompts_for(images, CAPTIONS), SEEDS)
    assert failed == {}
    assert all(torch.equal(extracted[name], expected[name]) for name in expected)


def test_colour_is_measured_on_the_whole_image_beside_an_embedding(encoder, images):
    both = Together({"clip": EmbeddingExtractor(encoder, pretrained=False), "colour": ColourExtractor()})
    both.load()
    found = run(both, images)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"clip.embedding": (3, 12), "colour.colour": (3, 98)}
    assert torch.equal(found["colour.colour"], run(ColourExtractor(), images)["colour"])
    alone = EmbeddingExtractor(encoder, pretrained=False)
    alone.load()
    assert torch.equal(found["clip.embedding"], run(alone, images)["embedding"])
    assert both.weights == {}
    assert from_settings(both.settings()).settings() == both.settings()


def test_the_whole_image_is_kept_and_floats_are_bytes(together, images):
    assert together.prepare(images[0]).shape == images[0].shape
    first, second = run(together, images), run(together, images / 255)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_image_that_a_member_cannot_use_is_told_before_it_is_in_a_batch(images, monkeypatch):
    member = Complexity()

    def refuse(image):
        raise UnusableImageError("too small")

    monkeypatch.setattr(member, "prepare", refuse)
    with pytest.raises(UnusableImageError, match="too small"):
        Together({"one": Complexity(), "two": member}).prepare(images[0])


def test_each_member_gets_its_own_prompts(images, monkeypatch):
    seen = {}
    for source in ("records", "empty"):
        member = InversionExtractor(size=64, steps=1, prompt_source=source)
        monkeypatch.setattr(member, "forward", lambda images, prompts, seeds, source=source: seen.update({source: prompts}) or {})
        both = Together({"one": member})
        run(both, images)
        assert both.uses_record_captions == (source == "records")
    assert seen == {"records": ["a coin", "", "a cat"], "empty": ["", "", ""]}


def test_a_captioning_member_tells_no_caption_from_an_empty_one(images, monkeypatch):
    member, asked = Complexity(), []
    monkeypatch.setattr(member, "prompts_for", lambda images, captions: asked.append(captions) or ["x"] * len(images))
    run(Together({"one": member}), images)
    assert asked == [CAPTIONS]


def test_diagnostics_and_their_limits_belong_to_their_member(together, members, images):
    found = run(together, images)
    figures = together.diagnostics(found)
    assert list(figures) == ["noise.round_trip_psnr"]
    own = {name.removeprefix("noise."): tensor for name, tensor in found.items() if name.startswith("noise.")}
    assert torch.equal(figures["noise.round_trip_psnr"], members["noise"].diagnostics(own)["round_trip_psnr"])
    assert together.warn_below == {"noise.round_trip_psnr": InversionExtractor.warn_below["round_trip_psnr"]}
    assert Together.warn_below == {}


def test_a_failure_says_in_which_members(images, monkeypatch):
    first, second = Complexity(), Complexity(size=32)

    def spoiled(rows):
        def extract(images, prompts, seeds):
            return {"x": torch.zeros(len(images))}, dict.fromkeys(rows, "overflow")

        return extract

    monkeypatch.setattr(first, "extract", spoiled([2, 0]))
    monkeypatch.setattr(second, "extract", spoiled([2]))
    features, failed = Together({"a": first, "b": second}).extract(images, ["", "", ""], SEEDS)
    assert failed == {0: "a: overflow", 2: "a: overflow; b: overflow"}
    assert list(features) == ["a.x", "b.x"]


def test_an_image_alone_or_in_any_batch(together, images):
    found = run(together, images)
    for i in range(3):
        with torch.no_grad():
            alone = together(images[i : i + 1], [CAPTIONS[i] or ""], SEEDS[i : i + 1])
        for name, tensor in alone.items():
            difference = (tensor[0].double() - found[name][i].double()).abs()
            assert difference.max() <= (1 if tensor.dtype == torch.uint8 else 1e-5)


def test_weights_and_settings_are_those_of_all(together, members):
    assert together.weights == {"assets/tiny-diffusion": None}
    settings = together.settings()
    assert set(settings["init_args"]["extractors"]) == set(members)
    assert from_settings(settings).settings() == settings


def test_members_are_loaded_and_let_go_of(encoder):
    member = EmbeddingExtractor(encoder, pretrained=False)
    both = Together({"one": member, "two": Complexity()})
    assert member.network is None
    both.load()
    assert member.network is not None
    both.unload()
    assert member.network is None


@pytest.mark.parametrize("names", [[], ["a.b"], [""]])
def test_wrong_names_are_refused(names):
    with pytest.raises(ValueError, match="names without dots"):
        Together({name: Complexity() for name in names})
