import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from assets.evaluate_tiny_diffusion import denoising_errors, in_batches, psnr, unseen_crops, wiener_error
from assets.tiny_diffusion_networks import PROMPT_LENGTH, build_tokenizer
from assets.train_tiny_diffusion import TimeBudget, build_crops, main, ramped_average, tokenise
from datamodules.sources.photographs import photographs
from modules.diffusion.latent_diffusion import LatentDiffusion

MODEL = Path(__file__).parents[2] / "assets" / "tiny-diffusion"


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(str(MODEL))


@pytest.fixture(scope="module")
def crops():
    return unseen_crops(per_photograph=5, seed=11)


@pytest.fixture(scope="module")
def latents(model, crops):
    return in_batches(model.encode, crops.images)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    output, work = folder / "model", folder / "work"
    main(["--minutes", "0.04", "--crops", "56", "--batch-size", "4", "--output", str(output), "--work", str(work)])
    return output, work


def test_the_model_is_small():
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) <= 16e6


def test_diffusers_loads_it_and_makes_an_image():
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a close photo of old coins", num_inference_steps=2, guidance_scale=1.0, output_type="np").images
    assert images.shape == (1, 64, 64, 3)


def test_its_parts_load_alone_in_float32():
    for network in (AutoencoderKL, UNet2DConditionModel, CLIPTextModel):
        part = {"AutoencoderKL": "vae", "UNet2DConditionModel": "unet", "CLIPTextModel": "text_encoder"}[network.__name__]
        assert next(network.from_pretrained(MODEL, subfolder=part).parameters()).dtype == torch.float32
    assert CLIPTokenizer.from_pretrained(MODEL, subfolder="tokenizer").model_max_length == PROMPT_LENGTH


def test_the_scheduler_writes_out_what_matters():
    config = json.loads((MODEL / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == "DDIMScheduler"
    assert config["clip_sample"] is False
    assert config["set_alpha_to_one"] is False
    assert config["steps_offset"] == 1
    assert config["timestep_spacing"] == "leading"
    assert config["prediction_type"] == "epsilon"


def test_the_tokenizer_files_of_transformers_4_say_the_same():
    folder = MODEL / "tokenizer"
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    assert json.loads((folder / "vocab.json").read_text()) == model["vocab"]
    assert (folder / "merges.txt").read_text().splitlines()[1:] == [" ".join(pair) for pair in model["merges"]]


def test_latents_have_unit_variance_on_its_own_photographs(model):
    latents = in_batches(model.encode, build_crops(140, seed=5)[0])
    assert 0.8 < float(latents.std()) < 1.2


def test_the_autoencoder_keeps_photographs_it_never_saw(model, crops, latents):
    assert float(psnr(crops.images / 255, in_batches(model.decode, latents)).mean()) > 26


def test_the_noise_prediction_beats_the_best_linear_one(model, crops, latents):
    sample = in_batches(model.encode, build_crops(2000, seed=3)[0])
    prompts = model.embed(crops.captions)
    for timestep in (100, 300, 600):
        error, noisy, noise = denoising_errors(model, latents, prompts, timestep, seed=0)
        alpha = float(model.schedule.alphas_cumprod[timestep])
        assert float(error.mean()) < float(wiener_error(noisy, noise, alpha, sample).mean())


def test_captions_lower_the_error(model, crops, latents):
    empty = model.embed([""] * len(latents))
    gains = [
        denoising_errors(model, latents, empty, timestep, seed=0)[0]
        - denoising_errors(model, latents, model.embed(crops.captions), timestep, seed=0)[0]
        for timestep in (300, 600, 800)
    ]
    assert float(torch.stack(gains).mean()) > 0


def test_the_linear_predictor_is_the_optimum_for_gaussian_latents():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(16, 16, generator=generator)
    sample, latents = ((torch.randn(4000, 16, generator=generator) @ mixing + 0.5).view(-1, 1, 4, 4) for _ in range(2))
    noise = torch.randn(latents.shape, generator=generator)
    alpha = 0.5
    noisy = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
    covariance = alpha * mixing.T @ mixing + (1 - alpha) * torch.eye(16)
    expected = 1 - (1 - alpha) * torch.linalg.inv(covariance).trace() / 16  # posterior variance of the noise
    assert float(wiener_error(noisy, noise, alpha, sample).mean()) == pytest.approx(float(expected), rel=0.03)


def test_a_training_run_of_seconds_writes_a_loadable_model(trained):
    output, _ = trained
    tiny = LatentDiffusion.from_pretrained(str(output))
    latents = tiny.encode(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert latents.shape == (2, 4, 16, 16)
    assert tiny.denoise(latents, tiny.embed(["a cat", ""]), 2).isfinite().all()
    assert StableDiffusionPipeline.from_pretrained(output, safety_checker=None).vae_scale_factor == 4
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []


def test_a_spent_run_resumes_keeps_the_card_and_replaces_the_weights(trained):
    output, work = trained
    (output / "README.md").write_text("card")
    before = (output / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    main(["--minutes", "0.05", "--crops", "56", "--batch-size", "4", "--output", str(output), "--work", str(work), "--resume"])
    assert (output / "README.md").read_text() == "card"
    assert (output / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() != before
    spent = torch.load(work / "diffusion.ckpt", weights_only=True)["callbacks"]["TimeBudget"]["spent"]
    assert spent > 0.05 * 60 * 0.65


def test_crops_for_training_are_reproducible_and_come_from_its_own_photographs():
    images, captions = build_crops(70, seed=2)
    again, same = build_crops(70, seed=2)
    assert torch.equal(images, again)
    assert captions == same
    assert images.shape == (70, 3, 64, 64)
    strangers = [photo.subject for role in ("detector", "test") for photo in photographs(role)]
    assert not [caption for caption in captions if any(f"of {subject}," in caption for subject in strangers)]


def test_the_tokenizer_spells_any_text_and_pads():
    tokenizer = build_tokenizer(["a close photo of old coins, dark, grey"] * 50)
    tokens = tokenise(tokenizer, ["", "a close photo of old coins", "żółć 猫 42"])
    assert tokens.shape == (3, PROMPT_LENGTH)
    assert int(tokens[0, 0]) == tokenizer.bos_token_id
    assert int(tokens[0, -1]) == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in tokens[2, 1:8].tolist()
    assert "photo</w>" in tokenizer.tokenize("photo")


def test_the_time_budget_raises_then_lowers_the_rate():
    class FakeTrainer:
        def __init__(self) -> None:
            self.optimizers = [torch.optim.SGD([torch.zeros(1)], lr=1.0)]
            self.should_stop = False

    rates = []
    for spent in (0.0, 5.0, 50.0, 99.0, 101.0):
        budget, trainer = TimeBudget(seconds=100, peak=1.0), FakeTrainer()
        budget.load_state_dict({"spent": spent})
        budget.on_train_start(trainer, None)  # type: ignore[arg-type]
        budget.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
    assert rates[0] < 0.05
    assert rates[1] == pytest.approx(1, abs=0.01)
    assert rates[1] > rates[2] > rates[3] > rates[4] == 0
    assert trainer.should_stop


def test_the_average_follows_fast_at_first_and_slowly_later():
    start, target = torch.zeros(1), torch.ones(1)
    assert float(ramped_average(start, target, 0)) == pytest.approx(0.9)
    assert float(ramped_average(start, target, 100_000)) == pytest.approx(0.002, rel=1e-3)
    assert float(ramped_average(target, target, 7)) == 1
