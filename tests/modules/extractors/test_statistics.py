"""The statistics of denoisers: what any of them promises, and each against a closed form."""

import copy
import dataclasses

import pytest
import torch

from modules.diffusion import FFDNet, LatentDenoiser, likelihood
from modules.diffusion.ddim import noise_weights
from modules.errors import CheckpointError, ModelError, UnusableImageError
from modules.extractors import Divergence, Likelihood, PerturbationDiscrepancy, ReconstructionError
from modules.settings import from_settings
from tests.modules.diffusion.closed_forms import Mixture

TINY = LatentDenoiser  # assets/tiny-diffusion
EXTRACTORS = {
    "hutchinson": lambda: Divergence(TINY(), samples=2),
    "coordinate": lambda: Divergence(TINY(), estimator="coordinate", samples=3, step_unit="absolute"),
    "noised": lambda: Divergence(TINY(), samples=1, state_draws=2),
    "reconstruction": lambda: ReconstructionError(TINY(), draws=2, spaces=["latent", "pixel"]),
    "likelihood": lambda: Likelihood({"tiny": TINY()}, steps=2, probes=2),
    "discrepancy": lambda: PerturbationDiscrepancy(TINY(), steps=2, versions=2),
    "discrepancy_likelihood": lambda: PerturbationDiscrepancy(TINY(), steps=2, versions=2, criterion="likelihood"),
}
# Rows that an image puts through the model: 2K, 2n, 2 · draws, n, S + 2KS + S, (m + 1) · 2S, (m + 1) · (S + 2KS).
ROWS = {
    "hutchinson": 4,
    "coordinate": 6,
    "noised": 4,
    "reconstruction": 2,
    "likelihood": 2 + 8 + 2,
    "discrepancy": 12,
    "discrepancy_likelihood": 3 * (2 + 4),
}


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def loaded(extractor):
    extractor.load()
    return extractor


def features(extractor, images, seeds, prompts=None):
    with torch.inference_mode():
        return extractor(images, prompts or [""] * len(images), seeds)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_images_numbers_are_the_same_alone_in_a_batch_and_in_another_order(name, images):
    extractor = loaded(EXTRACTORS[name]())
    seeds = list(range(100, 116))
    together = features(extractor, images, seeds)
    alone = features(extractor, images[5:6], seeds[5:6])
    backwards = features(extractor, images.flip(0), seeds[::-1])
    extractor.rows_at_once = 7
    in_parts = features(extractor, images, seeds)
    for column, values in together.items():
        assert values.shape == (16,)
        assert values.dtype == torch.float32
        # A standard error is the small difference of large numbers, and a discrepancy that of two log-likelihoods a dimension.
        scale = together[column.removesuffix("_se")].abs().clamp(min=1.0 if "discrepancy" in name else 0.0)
        assert float(((alone[column] - values[5]).abs() / scale[5]).max()) < 1e-5, column
        assert float(((backwards[column].flip(0) - values).abs() / scale).max()) < 1e-5, column
        assert float(((in_parts[column] - values).abs() / scale).max()) < 1e-5, column
    other = features(extractor, images[5:6], [1])
    assert any(not torch.equal(other[column], alone[column]) for column in other)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_rows_through_the_model_are_counted_and_batched(name, images, monkeypatch):
    extractor = loaded(EXTRACTORS[name]())
    calls = []
    unet = extractor.denoisers[0].diffusion.unet
    forward = unet.forward
    monkeypatch.setattr(unet, "forward", lambda states, *more, **named: calls.append(len(states)) or forward(states, *more, **named))
    features(extractor, images[:4], [1, 2, 3, 4])
    assert sum(calls) == 4 * ROWS[name]
    steps = getattr(extractor, "steps", None)
    passes = 1 if steps is None else steps if name == "discrepancy_likelihood" else 2 * steps
    assert len(calls) == passes  # never one pass a probe, a draw or an image


@pytest.mark.parametrize("name", EXTRACTORS)
def test_settings_build_the_same_extractor(name):
    extractor = EXTRACTORS[name]()
    told = extractor.settings()
    again = from_settings(copy.deepcopy(told))
    assert type(again) is type(extractor)
    assert again.settings() == told
    assert again.weights == {"assets/tiny-diffusion": None}


def test_a_standard_error_needs_two_samples(images):
    assert features(loaded(Divergence(TINY(), samples=1)), images[:1], [0]).keys() == {"divergence"}
    assert features(loaded(Divergence(TINY(), samples=2)), images[:1], [0]).keys() == {"divergence", "divergence_se"}


@pytest.mark.parametrize(
    "build",
    [
        lambda: ReconstructionError(TINY(), draws=2),
        lambda: ReconstructionError(TINY(), draws=2, norms=["l2"]),
        lambda: Divergence(TINY(), samples=2),
        lambda: Likelihood({"tiny": TINY()}, steps=1, probes=2),
    ],
)
def test_an_image_that_overflows_fails_alone(build, images, monkeypatch):
    """Whether it comes with others or, of another shape than theirs, by itself; its columns are those of the others."""
    extractor = loaded(build())
    model = extractor.denoisers[0].diffusion
    encode = model.encode

    def overflowing(batch):
        latents = encode(batch)
        latents[batch.flatten(1).float().mean(1) > 250] = torch.inf
        return latents

    monkeypatch.setattr(model, "encode", overflowing)
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    with torch.inference_mode():
        together, failed = extractor.extract(torch.cat([images[:1], white]), ["", ""], [0, 1])
        assert failed.keys() == {1}
        alone, failed = extractor.extract(white, [""], [1])
        assert failed.keys() == {0}
    assert alone.keys() == together.keys()


def test_what_changes_no_number_is_no_part_of_the_identity():
    exact, other = (Divergence(TINY(), estimator="exact", samples=samples) for samples in (1, 9))
    assert exact.identity() == other.identity()
    assert exact.settings() != other.settings()
    assert Divergence(TINY(), samples=1).identity() != Divergence(TINY(), samples=9).identity()
    assert Divergence(TINY(), rows_at_once=8).identity() == Divergence(TINY()).identity()
    assert Divergence(TINY(), captioner="a").identity() == Divergence(TINY()).identity()
    captioned = [Divergence(TINY(), prompt_source="captioner", captioner=name).identity() for name in "ab"]
    assert captioned[0] != captioned[1]


def test_a_size_that_the_model_does_not_take_is_refused_before_anything_is_loaded():
    with pytest.raises(ModelError, match=r"size is 62; .* multiples of 8"):
        Divergence(TINY(), size=62).load()


def test_prompts_reach_the_model(images):
    extractor = loaded(Divergence(TINY(), samples=1, prompt_source="records"))
    assert extractor.uses_record_captions
    plain = features(extractor, images[:2], [0, 1])
    prompted = features(extractor, images[:2], [0, 1], ["", "a photo of coins"])
    torch.testing.assert_close(prompted["divergence"][0], plain["divergence"][0], rtol=1e-5, atol=0)
    assert float(prompted["divergence"][1]) != float(plain["divergence"][1])


def test_reconstruction_error_is_its_expectation_under_a_gaussian():
    model, draws = Mixture.gaussian(12), 3000
    extractor = ReconstructionError(model, draws=draws, noised_to=100, norms=["l2", "l2_per_dimension"], rows_at_once=1000)
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = extractor(x, ["", ""], [5, 6])
    alpha = float(model.schedule.alphas_cumprod[100])
    identity = torch.eye(12, dtype=torch.float64)
    gain = alpha**0.5 * model.covariances[0] @ torch.linalg.inv(model.at(alpha)[1][0])
    bias = (x.flatten(1) - model.means[0]) @ (identity - alpha**0.5 * gain).T
    truth = bias.square().sum(1) + (1 - alpha) * gain.square().sum()
    assert bool(((found["latent_l2"] - truth).abs() < 4 * found["latent_l2_se"]).all())
    assert float((found["latent_l2_se"] / truth).max()) < 0.05
    torch.testing.assert_close(found["latent_l2_per_dimension"] * 12, found["latent_l2"])


def test_the_spectral_norm_is_the_largest_singular_value_over_the_root_of_the_dimension():
    from modules.extractors.reconstruction import spectral

    difference = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    expected = [torch.linalg.svdvals(each.reshape(12, 5).double()).max() / 60**0.5 for each in difference]
    torch.testing.assert_close(spectral(difference).double(), torch.stack(expected), rtol=1e-5, atol=0)


def test_discrepancy_is_that_of_the_matrix_recursion():
    model, steps = Mixture.gaussian(12), 10
    extractor = PerturbationDiscrepancy(model, criterion="prior", versions=5, scale=0.3, steps=steps)
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = extractor(x, ["", ""], [5, 6])
    matrix, shift = torch.eye(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    for step in model.schedule.path(steps, "invert"):
        k, c = noise_weights(step.alpha_from, step.alpha_to)
        alpha = float(model.schedule.alphas_cumprod[step.timestep])
        means, covariances = model.at(alpha)
        slope = (1 - alpha) ** 0.5 * torch.linalg.inv(covariances[0])
        matrix, shift = (k * torch.eye(12) + c * slope) @ matrix, (k * torch.eye(12) + c * slope) @ shift - c * slope @ means[0]
    for i, seed in enumerate((5, 6)):
        noise = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).double()
        versions = torch.cat([x[i : i + 1], x[i] + 0.3 * noise]).flatten(1) @ matrix.T + shift
        prior = -0.5 * versions.square().mean(1)
        torch.testing.assert_close(float(found["discrepancy"][i]), float(prior[0] - prior[1:].mean()), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(float(found["discrepancy_se"][i]), float(prior[1:].std() / 5**0.5), rtol=1e-5, atol=1e-7)


def test_several_models_have_columns_of_their_own():
    models = {"near": Mixture.gaussian(12), "far": Mixture(torch.full((1, 12), 9.0, dtype=torch.float64), Mixture.gaussian(12).covariances)}
    extractor = Likelihood(models, steps=20, probes=4)
    torch.manual_seed(0)
    x = (models["near"].means + torch.linalg.cholesky(models["near"].covariances[0]) @ torch.randn(12).double()).reshape(1, 3, 2, 2)
    found = extractor(x, [""], [0])
    columns = {"log_prior", "reconstruction", "log_likelihood", "log_likelihood_se"}
    assert found.keys() == {f"{model}.{column}" for model in models for column in columns}
    assert float(found["near.log_likelihood"]) > float(found["far.log_likelihood"]) + 1


class TestFFDNet:
    def file(self, tmp_path, channels=96):
        from itertools import pairwise

        from safetensors.torch import save_file

        generator = torch.Generator().manual_seed(0)
        state = {}
        for i, (inputs, outputs) in enumerate(pairwise([13, *[channels] * 11, 12])):
            state[f"model.{2 * i}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
            state[f"model.{2 * i}.bias"] = torch.zeros(outputs)
        path = tmp_path / "ffdnet.safetensors"
        save_file(state, path)
        return str(path)

    def test_a_denoiser_of_pixels_fits_the_same_statistics(self, tmp_path, images):
        model = FFDNet(self.file(tmp_path))
        level = model.level(0.05)
        divergence = loaded(Divergence(model, samples=2, noise_level=0.05))
        assert features(divergence, images[:2], [0, 1])["divergence"].shape == (2,)
        clean = model.encode(images[:2])
        # Tweedie: the score is (D(x, σ) − x) / σ²
        expected = (model.predict_clean(clean, level, None) - clean) / 0.05**2
        torch.testing.assert_close(model.score(clean, level, None), expected, rtol=1e-4, atol=1e-3)
        assert features(loaded(ReconstructionError(model, noised_to=0.05)), images[:2], [0, 1])["latent_l2"].shape == (2,)

    def test_it_has_no_path_to_noise_takes_no_prompt_and_knows_its_levels(self, tmp_path, images):
        model = FFDNet(self.file(tmp_path))
        with pytest.raises(ModelError, match="no path from an image to noise"):
            features(loaded(Likelihood({"ffdnet": model}, steps=2)), images[:1], [0])
        with pytest.raises(ModelError, match="set it to empty"):
            Divergence(model, prompt_source="records").load()
        for wrong in (0, 0.5, -1):
            with pytest.raises(ModelError, match="75/255"):
                model.level(wrong)

    def test_another_network_is_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match="FFDNet"):
            FFDNet(self.file(tmp_path, channels=64)).load()


def test_native_size_is_cut_to_multiples_and_a_given_size_is_the_centre_square():
    image = torch.arange(3 * 21 * 34, dtype=torch.int32).remainder(256).to(torch.uint8).reshape(3, 21, 34)
    native = Divergence(TINY())
    assert torch.equal(native.prepare(image), image[:, 2:18, 1:33])
    assert Divergence(TINY(), size=64).prepare(image).shape == (3, 64, 64)
    with pytest.raises(UnusableImageError, match="34 x 7 pixels"):
        native.prepare(image[:, :7])


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Divergence(TINY(), estimator="guess"), "guess"),
        (lambda: Divergence(TINY(), step=0), "step 0"),
        (lambda: Divergence(TINY(), samples=0), "samples is 0"),
        (lambda: ReconstructionError(TINY(), norms=["l3"]), "l3"),
        (lambda: ReconstructionError(TINY(), draws=0), "draws is 0"),
        (lambda: Likelihood({}), "one or more"),
        (lambda: Likelihood({"a.b": TINY()}), "letters"),
        (lambda: PerturbationDiscrepancy(TINY(), criterion="guess"), "guess"),
        (lambda: PerturbationDiscrepancy(TINY(), scale=-1), "scale -1"),
        (lambda: Divergence(TINY(), prompt_source="guess"), "guess"),
        (lambda: Divergence(TINY(), rows_at_once=1), "rows_at_once is 1"),
        (lambda: LatentDenoiser(model_dtype="int8"), "int8"),
    ],
)
def test_wrong_options_are_named(build, told):
    with pytest.raises(ValueError, match=told):
        build()


@pytest.mark.parametrize("level", [-1, 1000, 0.5])
def test_a_diffusion_models_levels_are_its_timesteps(level):
    model = TINY()
    model.load()
    with pytest.raises(ModelError, match="from 0 to 999"):
        model.level(level)


def test_exact_divergence_of_the_real_network_is_within_hutchinsons_error(images):
    small = images[:1, :, :16, :16]
    with torch.inference_mode(False):
        exact = loaded(Divergence(TINY(), estimator="exact", rows_at_once=512))(small, [""], [0])["divergence"]
        estimate = loaded(Divergence(TINY(), samples=64))(small, [""], [0])
    assert abs(float(estimate["divergence"] - exact)) < 4 * float(estimate["divergence_se"]) + 0.02 * abs(float(exact))


def test_a_network_that_predicts_v_is_inverted_as_the_latent_diffusion_model_does_it(images):
    """Another path to the same end: that converts each step's weights, this each prediction."""
    denoiser = TINY()
    denoiser.load()
    denoiser.diffusion.schedule = dataclasses.replace(denoiser.schedule, prediction_type="v_prediction")
    with torch.inference_mode():
        clean, text = denoiser.encode(images[:2]), denoiser.embed(["", "coins"])
        path = denoiser.schedule.path(5, "invert")
        found = likelihood.invert(path, clean, lambda rows, level, of: denoiser.predict_noise(rows, level, text[of]))
        back = likelihood.denoise(
            denoiser.schedule.path(5, "denoise"), found.noise, lambda rows, level, of: denoiser.predict_noise(rows, level, text[of])
        )
        expected = denoiser.diffusion.invert(clean, text, 5)
        torch.testing.assert_close(found.noise, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(back, denoiser.diffusion.denoise(expected, text, 5), rtol=1e-4, atol=1e-4)
