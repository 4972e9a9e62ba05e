"""Perturbation similarities, against cosines of single passes."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from modules.extractors.similarity import PerturbationSimilarity, parse_perturbation
from modules.settings import from_settings
from tests.modules.networks.encoders import add_tiny

SEEDS = [5, 11, 2**59, 7]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return add_tiny(tmp_path_factory.mktemp("clip"), "tiny-similarity")


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


def build(encoder, *perturbations, **options):
    extractor = PerturbationSimilarity(encoder, pretrained=False, perturbations=list(perturbations) or None, **options)
    extractor.load()
    return extractor


def measure(extractor, images, seeds=SEEDS):
    with torch.no_grad():
        return extractor(images, [""] * len(images), seeds)


def cosine(extractor, first, second):
    with torch.no_grad():
        one, two = (extractor.network(each[None]).double()[0] for each in (first, second))
    return float(one @ two / (one.norm() * two.norm()))


def noises(image, seed, draws):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(image.shape, generator=generator) for _ in range(draws)]


@pytest.mark.parametrize("space", ["normalised", "unit"])
def test_rigid_is_the_cosine_of_an_image_and_the_noisy_one(encoder, images, space):
    extractor = build(encoder, noise_space=space)
    scale = torch.tensor(extractor.network.std)[:, None, None] if space == "normalised" else 1
    found = measure(extractor, images)
    assert list(found) == ["similarity", "similarity_noise_0.05"]
    for i, image in enumerate(images / 255):
        noisy = image + 0.05 * scale * noises(image, SEEDS[i], 1)[0]
        assert float(found["similarity"][i]) == pytest.approx(cosine(extractor, image, noisy), abs=1e-6)


def test_noise_in_normalised_space_is_what_the_network_sees(encoder, images):
    extractor = build(encoder)
    image = images[0] / 255
    shift, scale = (torch.tensor(each)[:, None, None] for each in (extractor.network.mean, extractor.network.std))
    with torch.no_grad():
        clean, noisy = (
            extractor.network.network((image - shift)[None] / scale + 0.05 * noise) for noise in (0, noises(image, SEEDS[0], 1)[0])
        )
    expected = torch.cosine_similarity(clean.double(), noisy.double())
    assert float(measure(extractor, images)["similarity"][0]) == pytest.approx(float(expected), abs=1e-6)


def test_a_normalisation_of_its_own_is_the_noises_unit(encoder, images):
    std = [0.5, 0.25, 1.0]
    extractor = build(encoder, mean=[0.1, 0.2, 0.3], std=std)
    assert extractor.network.mean == (0.1, 0.2, 0.3)
    image = images[0] / 255
    noisy = image + 0.05 * torch.tensor(std)[:, None, None] * noises(image, SEEDS[0], 1)[0]
    assert float(measure(extractor, images)["similarity"][0]) == pytest.approx(cosine(extractor, image, noisy), abs=1e-6)


def test_blur_is_that_of_scipy(encoder, images):
    extractor = build(encoder, "blur_1.0")
    found = measure(extractor, images)["similarity_blur_1.0"]
    for i, image in enumerate(images / 255):
        blurred = image.numpy()
        for axis in (1, 2):
            blurred = gaussian_filter1d(blurred, 1.0, axis=axis, mode="mirror", truncate=3.0)
        assert float(found[i]) == pytest.approx(cosine(extractor, image, torch.from_numpy(blurred)), abs=1e-5)


def test_means_and_standard_errors_are_those_of_the_draws(encoder, images):
    extractor = build(encoder, "noise_0.1", "blur_2", noise_draws=5)
    found = measure(extractor, images)
    scale = torch.tensor(extractor.network.std)[:, None, None]
    for i, image in enumerate(images / 255):
        single = np.array([cosine(extractor, image, image + 0.1 * scale * noise) for noise in noises(image, SEEDS[i], 5)])
        error = single.std(ddof=1) / np.sqrt(5)
        assert float(found["similarity_noise_0.1"][i]) == pytest.approx(single.mean(), abs=1e-6)
        assert float(found["similarity_noise_0.1_se"][i]) == pytest.approx(error, rel=1e-2)
        assert float(found["similarity"][i]) == pytest.approx((single.mean() + float(found["similarity_blur_2"][i])) / 2, abs=1e-6)
        assert float(found["similarity_se"][i]) == pytest.approx(error / 2, rel=1e-2)
    assert "similarity_blur_2_se" not in found


def test_minder_takes_the_similarity_of_the_smallest_distance(encoder, images):
    names = ["noise_0.3", "blur_1.0", "noise_0.05"]
    found = {reduce: measure(build(encoder, *names, reduce=reduce), images) for reduce in ("min", "max", "mean")}
    each = torch.stack([found["min"][f"similarity_{name}"] for name in names])
    assert torch.equal(found["min"]["similarity"], each.amax(0))  # 1 - max = min of 1 - similarity
    assert torch.equal(found["max"]["similarity"], each.amin(0))
    assert torch.allclose(found["mean"]["similarity"], each.mean(0), atol=1e-6)
    assert each.std(0).min() > 0


def test_the_error_of_a_minimum_is_that_of_the_perturbation_it_came_to(encoder, images):
    for reduce, chosen in (("min", 0), ("max", 1)):
        found = measure(build(encoder, "noise_0.01", "noise_0.5", reduce=reduce, noise_draws=3), images)
        name = ("noise_0.01", "noise_0.5")[chosen]
        assert torch.equal(found["similarity"], found[f"similarity_{name}"])
        assert torch.equal(found["similarity_se"], found[f"similarity_{name}_se"])


def test_an_image_alone_or_in_any_batch(encoder, images):
    extractor = build(encoder, "noise_0.05", "blur_1.0", noise_draws=3, reduce="max")
    together = measure(extractor, images)
    backwards = measure(extractor, images.flip(0), SEEDS[::-1])
    floats = measure(extractor, images / 255)
    for i, image in enumerate(images):
        for name, values in measure(extractor, image[None], SEEDS[i : i + 1]).items():
            assert torch.allclose(values, together[name][i], rtol=1e-5, atol=1e-7)
    for name, values in together.items():
        assert torch.allclose(backwards[name].flip(0), values, rtol=1e-5, atol=1e-7)
        assert torch.equal(floats[name], values)


def test_the_other_perturbations_and_draws_change_nothing(encoder, images):
    alone, among = build(encoder, "noise_0.05"), build(encoder, "blur_1.0", "noise_0.2", "noise_0.05")
    assert torch.allclose(measure(alone, images)["similarity"], measure(among, images)["similarity_noise_0.05"], rtol=1e-5)


@pytest.mark.parametrize(("at_once", "passes"), [(64, [24]), (5, [5, 5, 5, 5, 4]), (1, [1] * 24)])
def test_images_and_copies_share_passes_and_their_size_changes_nothing(encoder, images, at_once, passes):
    extractor = build(encoder, "noise_0.05", "blur_1.0", "noise_0.1", noise_draws=2)
    expected = measure(extractor, images)
    rows = []
    extractor.network.register_forward_hook(lambda module, inputs, outputs: rows.append(len(inputs[0])))
    extractor.rows_at_once = at_once
    found = measure(extractor, images)
    assert rows == passes  # four images, each with two draws of two noises and a blur
    assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-7) for name in expected)


def test_another_seed_is_another_draw(encoder, images):
    extractor = build(encoder)
    assert not torch.equal(measure(extractor, images)["similarity"], measure(extractor, images, [1, 2, 3, 4])["similarity"])


@pytest.mark.parametrize("name", ["noise", "noise_", "noise_-1", "noise_0", "jpeg_90", "blur_1.0 ", "noise_1e3", "blur_nan"])
def test_what_is_no_perturbation_is_refused(name, encoder):
    with pytest.raises(ValueError, match="is not noise_LAMBDA or blur_SIGMA"):
        PerturbationSimilarity(encoder, perturbations=[name])


def test_the_parts_of_a_perturbation():
    assert parse_perturbation("noise_0.05") == ("noise", 0.05)
    assert parse_perturbation("blur_2") == ("blur", 2.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"perturbations": []}, "one or more"),
        ({"perturbations": ["blur_1", "blur_1"]}, "each once"),
        ({"reduce": "median"}, "reduce is 'median'"),
        ({"noise_space": "pixels"}, "noise_space 'pixels'"),
        ({"noise_draws": 0}, "noise_draws is 0"),
        ({"rows_at_once": 0}, "rows_at_once 0"),
        ({"perturbations": ["blur_1"], "noise_draws": 4}, "nothing in .* is random"),
    ],
)
def test_wrong_arguments_are_refused(options, words, encoder):
    with pytest.raises(ValueError, match=words):
        PerturbationSimilarity(encoder, **options)


def test_the_reduction_of_one_perturbation_is_idle(encoder, images):
    for name, draws in (("noise_0.05", 3), ("blur_1.0", 1)):
        found = [measure(build(encoder, name, reduce=reduce, noise_draws=draws), images) for reduce in ("mean", "min", "max")]
        assert all(other.keys() == found[0].keys() for other in found)
        assert all(torch.equal(other[key], found[0][key]) for other in found[1:] for key in other)
        assert "reduce" in PerturbationSimilarity(encoder, perturbations=[name]).idle
    assert "reduce" not in PerturbationSimilarity(encoder, perturbations=["noise_0.05", "blur_1.0"]).idle


def test_the_noises_space_is_idle_where_there_is_no_noise(encoder, images):
    first, second = (measure(build(encoder, "blur_1.0", "blur_2", noise_space=space), images) for space in ("normalised", "unit"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert PerturbationSimilarity(encoder, perturbations=["blur_1.0", "blur_2"]).idle == {"noise_space", "mean", "std"}
    assert PerturbationSimilarity(encoder, perturbations=["noise_0.05", "blur_2"]).idle == {"mean", "std"}
    assert PerturbationSimilarity("timm/test_vit").idle == {"projection", "reduce", "mean", "std"}


def test_idle_options_are_no_part_of_the_identity(encoder):
    changes = {"reduce": "min", "noise_space": "unit"}
    for names, alike in ((["blur_1.0"], True), (["blur_1.0", "noise_0.05"], False)):
        one, other = (PerturbationSimilarity(encoder, perturbations=names, **options).identity() for options in ({}, changes))
        assert (one == other) is alike


def test_an_encoder_must_be_named():
    with pytest.raises(TypeError, match="encoder"):
        PerturbationSimilarity()


def test_settings_rebuild_it(encoder):
    built = PerturbationSimilarity(encoder, perturbations=["noise_0.05", "blur_1.0"], noise_draws=4, reduce="min", noise_space="unit")
    assert from_settings(built.settings()).settings() == built.settings()
    assert PerturbationSimilarity("timm/test_vit").weights == {"timm/test_vit": None}
    with pytest.raises(RuntimeError, match="load"):
        measure(built, torch.zeros(4, 3, 32, 32))
