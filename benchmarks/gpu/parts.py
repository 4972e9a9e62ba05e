"""The questions, a function each; each gives plain numbers and takes minutes at most."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.measuring import operations, peak, timed
from benchmarks.gpu.models import random_model, random_unet
from modules.diffusion import LatentDiffusion

PLAIN = "diffusers"  # the UNet as the library has it, called as a pipeline calls it
MODES = {"eager": (False, False), "graph": (True, False), "compiled": (False, True), "compiled+graph": (True, True)}
LIMIT_SIDE = {"sd15": 8192, "tiny": 256}
STEPS = {"sd15": 50, "tiny": 2}


def device() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def limit(size: str) -> dict[str, Any]:
    """FLOP of one image's features, counted, and what the device does a second in bfloat16."""
    model = random_model(size, torch.float32, "meta")
    side = model.unet.config.sample_size
    pixels = side * model.factor
    latents, text = _inputs(model, 1)
    flop = {
        "unet": operations(lambda: model.predict(latents, 500, text)),
        "encode": operations(lambda: model.encode(torch.empty(1, 3, pixels, pixels, device="meta"))),
        "decode": operations(lambda: model.decode(latents)),
    }
    whole = 2 * STEPS[size] * flop["unet"] + flop["encode"] + 2 * flop["decode"]
    rate = peak(torch.bfloat16, LIMIT_SIDE[size])
    return {"flop": flop | {"image": whole}, "flop_per_second": rate, "images_per_second": rate / whole}


def unet(size: str, batches: list[int], modes: list[str], flop_per_second: float) -> list[dict[str, Any]]:
    """One forward pass in bfloat16 by batch and mode: seconds, images a second, share of the limit, distance from the first mode."""
    model = random_model(size, torch.bfloat16, device())
    plain = random_unet(size, torch.bfloat16, device())
    meta = random_model(size, torch.float32, "meta")
    flop = operations(lambda: meta.predict(*_meta_inputs(meta)))
    rows = []
    for batch in batches:
        (latents, text), first = _inputs(model, batch), None
        for mode in modes:
            found, row = _forward(_pass(mode, model, plain), latents, text)
            first = found if first is None else first
            if found is not None and first is not None:
                row["difference"] = relative(found, first)
                row["share_of_limit"] = flop * row["images_per_second"] / flop_per_second
            rows.append({"batch": batch, "mode": mode, **row})
    return rows


def _pass(mode: str, model: LatentDiffusion, plain: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """One pass in a mode, from latents and text to the UNet's output."""
    if mode == PLAIN:
        return lambda latents, text: plain(latents.to(plain.dtype), 500, text).sample.float()
    model.graphs, model.compiled = MODES[mode]
    return lambda latents, text: model.predict(latents, 500, text)


def _forward(call: Callable[[Tensor, Tensor], Tensor], latents: Tensor, text: Tensor) -> tuple[Tensor | None, dict[str, Any]]:
    """The UNet's output and the time that it takes; none where the memory is too small."""
    with torch.inference_mode():
        try:
            seconds = timed(lambda: call(latents, text), warm=2)
        except torch.OutOfMemoryError:
            return None, {"out_of_memory": True}
        return call(latents, text), {"seconds": seconds, "images_per_second": len(latents) / seconds["median"]}


def vae(size: str, batch: int, dtypes: list[torch.dtype]) -> list[dict[str, Any]]:
    """Encoding and decoding by dtype: images a second, and how far the decoded pictures lie from those of the first dtype."""
    rows = []
    reference: Tensor | None = None
    for dtype in dtypes:
        decoded, row = _round_trip(random_model(size, dtype, device()), batch)
        reference = decoded if reference is None else reference
        rows.append({"dtype": str(dtype).removeprefix("torch."), "batch": batch, **row, "difference": relative(decoded, reference)})
    return rows


def _round_trip(model: LatentDiffusion, batch: int) -> tuple[Tensor, dict[str, Any]]:
    """Decoded latents of random images, and the time that both ways take."""
    side = model.unet.config.sample_size * model.factor
    images = torch.rand(batch, 3, side, side, device=device(), generator=torch.Generator(device()).manual_seed(0))
    with torch.inference_mode(), exact_float32():
        latents = model.encode(images)
        encode, decode = timed(lambda: model.encode(images), 3), timed(lambda: model.decode(latents), 3)
        decoded = model.decode(latents, clamp=False)
    rates = {"encode_images_per_second": batch / encode["median"], "decode_images_per_second": batch / decode["median"]}
    return decoded, rates | {"finite": bool(decoded.isfinite().all())}


def training(sides: list[int], batch: int) -> list[dict[str, Any]]:
    """A training step of the 9-channel ResNet50, uint8 features already on the device: images a second by side and precision."""
    return [
        {"side": side, "precision": precision, "batch": batch, "images_per_second": batch / _training_step(side, precision, batch)}
        for side in sides
        for precision in ("float32", "bfloat16")
    ]


def _training_step(side: int, precision: str, batch: int) -> float:
    """Seconds of one step, under Lightning's mixed precision where it is bfloat16."""
    from modules.detectors import FakeInversion

    detector = FakeInversion(pretrained=False).to(device()).train()
    optimizer = torch.optim.AdamW(detector.parameters())
    features = {name: torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device()) for name in detector.inputs}
    labels = torch.randint(0, 2, (batch,), device=device()).float()

    def step() -> None:
        with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16"):
            scores = detector(features)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores.flatten().float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return timed(step, warm=3)["median"]


def agreement(model_path: str, images: Tensor, prompts: list[str], steps: int, compiled: bool) -> list[dict[str, Any]]:
    """Features of a trained model in bfloat16, by mode, against its float32 ones without TF32.

    Args:
        model_path: Its directory.
        images: uint8 `[N, 3, H, W]`.
        prompts: One an image.
        steps: DDIM steps each way.
        compiled: Whether compiling is tried as well.
    """
    modes = [mode for mode in MODES if compiled or "compiled" not in mode]
    exact = LatentDiffusion.from_pretrained(model_path, torch.float32, device())
    half = LatentDiffusion.from_pretrained(model_path, torch.bfloat16, device())
    with torch.inference_mode():
        with exact_float32():
            expected = _pictures(exact, images, prompts, steps)
        found = {"float32, as torch is set": _pictures(exact, images, prompts, steps)}
        for mode in modes:
            half.graphs, half.compiled = MODES[mode]
            found[f"bfloat16, {mode}"] = _pictures(half, images, prompts, steps)
    rows = []
    for name, pictures in found.items():
        difference = [(a.float() - b.float()).abs() * 255 for a, b in zip(pictures, expected, strict=True)]
        told = {
            part: {"mean_levels": float(d.mean()), "share_over_one_level": float((d > 1).float().mean()), "max_levels": float(d.max())}
            for part, d in zip(("noise_map", "reconstruction"), difference, strict=True)
        }
        same = [torch.equal(a, b) for a, b in zip(pictures, found.get("bfloat16, eager", pictures), strict=True)]
        rows.append({"mode": name, **told, "bitwise_as_bfloat16_eager": all(same)})
    return rows


def _pictures(model: LatentDiffusion, images: Tensor, prompts: list[str], steps: int) -> tuple[Tensor, Tensor]:
    text = model.embed(prompts)
    noise = model.invert(model.encode(images.to(device())), text, steps)
    return model.decode(noise), model.decode(model.denoise(noise, text, steps))


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the expected tensor's."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within it no float32 product or convolution is made in TF32."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


def _inputs(model: LatentDiffusion, batch: int) -> tuple[Tensor, Tensor]:
    config = model.unet.config
    latents = torch.randn(batch, 4, config.sample_size, config.sample_size, device=model.device)
    text = torch.randn(batch, model.tokenizer.model_max_length, config.cross_attention_dim, device=model.device, dtype=model.dtype)
    return latents, text


def _meta_inputs(model: LatentDiffusion) -> tuple[Tensor, int, Tensor]:
    latents, text = _inputs(model, 1)
    return latents, 500, text
