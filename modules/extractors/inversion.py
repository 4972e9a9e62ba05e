"""FakeInversion's features: the image, its decoded DDIM noise map and its decoded reconstruction (Cazenavette et al., CVPR 2024)."""

import logging
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from modules.diffusion.latent_denoiser import DTYPES
from modules.diffusion.latent_diffusion import SOLVERS, LatentDiffusion, Solver
from modules.extractors.base import Features, finite_images
from modules.extractors.prompted import PromptedExtractor, PromptSource
from modules.images import center_square, psnr, to_uint8, to_unit

log = logging.getLogger(__name__)


class InversionExtractor(PromptedExtractor):
    """Text-conditioned DDIM inversion and reconstruction of an image by a latent diffusion model.

    `forward` gives uint8 `[B, 3, size, size]` features `image`, `noise_map` (the decoded end of the inversion) and
    `reconstruction` (decoded after denoising it again); with `keep_latents` also `noise_latent` and `reconstruction_latent`,
    float16 `[B, C, h, w]`.

    Args:
        model: Directory or hub id of a text-to-image diffusers model.
        revision: Branch, tag or commit of a hub model.
        size: Side in pixels of the square that the diffusion model sees: the centre of the image with its short side resized.
        steps: DDIM steps each way.
        guidance: Classifier-free guidance; above 1 the round trip breaks.
        prompt_source: `records` (the records' captions), `empty` (unconditional), or `captioner`.
        captioner: BLIP or BLIP-2 model that describes the images where `prompt_source` is `captioner`.
        captioner_revision: Branch, tag or commit of a hub captioner.
        model_dtype: What the networks compute in: `float32`, `bfloat16` or `float16`. The DDIM state is float32.
        keep_latents: Also keep the two latents, to render the features again at another size.
        cuda_graphs: Replay the UNet as a CUDA graph, from the second of two equally large batches on; on CUDA devices.
        compile_after: Images after which the UNet is compiled, on CUDA devices; 0 compiles at once, null never. On an H100 compiling
            took 50 s and paid for itself after 1,200 images of Stable Diffusion 1.5 (docs/benchmarks.md). Like `cuda_graphs` it changes
            numbers by no more than the rounding of `model_dtype`, and is no part of the cache's fingerprint.
        solver: `ddim`, the paper's, or `dpm++`: DPM-Solver++(2M) both ways (Lu et al. 2022), of second order, for fewer `steps`. It starts
            and ends elsewhere in the noise schedule (`modules.diffusion.multistep`): other features, whatever the number of steps.
        reuse: The UNet's deep layers run on every `reuse`-th step only (DeepCache, Ma et al., CVPR 2024); 1 runs all of it on every step,
            as the paper does. Above 1 the UNet is neither compiled nor replayed as a CUDA graph. What these two change is in
            docs/benchmarks.md.
    """

    name: ClassVar[str] = "inversion"
    warn_below: ClassVar[dict[str, tuple[float, str]]] = {
        "round_trip_psnr": (15.0, "the reconstructions are far from the images: look for a wrong scheduler, prompt, guidance or image size")
    }

    def __init__(
        self,
        model: str = "assets/tiny-diffusion",
        revision: str | None = None,
        size: int = 512,
        steps: int = 50,
        guidance: float = 1.0,
        prompt_source: PromptSource = "records",
        captioner: str = "Salesforce/blip2-opt-2.7b",
        captioner_revision: str | None = None,
        model_dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        keep_latents: bool = False,
        cuda_graphs: bool = True,
        compile_after: int | None = 1000,
        solver: Solver = "ddim",
        reuse: int = 1,
    ) -> None:
        super().__init__(prompt_source, captioner, captioner_revision)
        if size < 8 or steps < 1:
            msg = f"size is {size} and steps is {steps}; at least 8 pixels and one step are needed"
            raise ValueError(msg)
        if solver not in SOLVERS:
            msg = f"solver is {solver!r}; it must be one of {SOLVERS}"
            raise ValueError(msg)
        if not 1 <= reuse <= steps:
            msg = f"reuse is {reuse}; it must lie between 1 (the whole UNet on every step) and the {steps} steps"
            raise ValueError(msg)
        self.model = model
        self.revision = revision
        self.size = size
        self.steps = steps
        self.guidance = guidance
        self.model_dtype = model_dtype
        self.keep_latents = keep_latents
        self.cuda_graphs = cuda_graphs
        self.compile_after = compile_after
        self.solver: Solver = solver
        self.reuse = reuse
        self._done, self._batch = 0, 0  # images so far, and of the batch before
        self.diffusion: LatentDiffusion | None = None
        self.exact: LatentDiffusion | None = None  # float32, once an image has needed it

    @property
    def idle(self) -> set[str]:
        """`solver` and `reuse` where they are the paper's: fingerprints are as they were before there were any others."""
        return super().idle | ({"solver"} if self.solver == "ddim" else set()) | ({"reuse"} if self.reuse == 1 else set())

    @property
    def weights(self) -> dict[str, str | None]:
        """The diffusion model, and the captioner where one is used."""
        return {self.model: self.revision} | super().weights

    def load(self) -> None:
        """Load the diffusion model and, where it is used, the captioner."""
        dtype = DTYPES[self.model_dtype]
        if self.guidance > 1:
            log.warning("guidance %s is above 1: inversion and reconstruction no longer undo each other", self.guidance)
        self.diffusion = LatentDiffusion.from_pretrained(self.model, dtype, revision=self.revision)
        self.load_captioner(dtype)

    def prepare(self, image: Tensor) -> Tensor:
        """Centre square, its side resized to `size`: uint8 `[3, H, W]` to uint8 `[3, size, size]`."""
        return center_square(image, self.size)

    def forward(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> Features:
        """Invert, reconstruct and decode both; see the class for the features. Nothing random: `seeds` are not used.

        Raises:
            FloatingPointError: If an image overflows, in float32 too; `extract` gives the others' features.
        """
        features, failed = self.extract(images, prompts, seeds)
        if failed:
            raise FloatingPointError(next(iter(failed.values())))
        return features

    def extract(self, images: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Features, dict[int, str]]:
        """As in the base class; images for which a float16 or bfloat16 network overflows are done again in float32."""
        self._choose_mode(len(images))
        features, finite = self._compute(self._loaded(), images, prompts)
        bad = [i for i, fine in enumerate(finite.tolist()) if not fine]  # the batch's only wait for the device
        tried: str = self.model_dtype
        if bad and self.model_dtype != "float32":
            again, finite = self._compute(self._in_float32(), images[bad], [prompts[i] for i in bad])
            for name, tensor in again.items():
                features[name][bad] = tensor
            bad = [i for i, fine in zip(bad, finite.tolist(), strict=True) if not fine]
            tried += " and in float32"
        return features, dict.fromkeys(bad, f"the diffusion model gave values that are not finite, in {tried}")

    def _choose_mode(self, batch: int) -> None:
        """Compiling and recording pay for batches that come again; what fits into memory, and the last batch's size, is known then."""
        model = self._loaded()
        again = model.device.type == "cuda" and batch == self._batch
        model.graphs = again and self.cuda_graphs
        model.compiled = again and self.compile_after is not None and self._done >= self.compile_after
        self._done, self._batch = self._done + batch, batch

    def _compute(self, model: LatentDiffusion, images: Tensor, prompts: Sequence[str]) -> tuple[Features, Tensor]:
        """The features, and which images were finite at every stage: overflow is a plausible grey or black image once it is uint8."""
        embeddings = model.embed(prompts)
        clean = model.encode(images)
        noise = model.invert(clean, embeddings, self.steps, self.guidance, solver=self.solver, reuse=self.reuse)
        rebuilt = model.denoise(noise, embeddings, self.steps, self.guidance, solver=self.solver, reuse=self.reuse)
        decoded = model.decode(torch.cat([noise, rebuilt]), clamp=False)  # one pass of the decoder for both
        kept = (noise.half(), rebuilt.half()) if self.keep_latents else (noise, rebuilt)
        finite = finite_images(clean, *kept, *decoded.chunk(2))
        noise_map, reconstruction = to_uint8(decoded).chunk(2)
        features = {"image": to_uint8(to_unit(images)), "noise_map": noise_map, "reconstruction": reconstruction}
        if self.keep_latents:
            features |= dict(zip(("noise_latent", "reconstruction_latent"), kept, strict=True))
        return features, finite

    def diagnostics(self, features: Features) -> dict[str, Tensor]:
        """Round-trip PSNR in dB between image and reconstruction."""
        return {"round_trip_psnr": psnr(features["image"], features["reconstruction"])}

    def unload(self) -> None:
        """Let go of the networks, so that training has their memory."""
        super().unload()
        self.diffusion = self.exact = None

    def _loaded(self) -> LatentDiffusion:
        if self.diffusion is None:
            msg = "load() was not called"
            raise RuntimeError(msg)
        return self.diffusion

    def _in_float32(self) -> LatentDiffusion:
        if self.exact is None:
            log.warning(
                "%s overflows for some images: these are done again in float32, with a second copy of the networks", self.model_dtype
            )
            self.exact = LatentDiffusion.from_pretrained(self.model, torch.float32, self._loaded().device, self.revision)
        return self.exact
