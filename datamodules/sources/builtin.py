"""The built-in data set: crops of photographs, and fakes that the built-in diffusion model makes from them.

Real images are crops of the photographs inside the scikit-image and scikit-learn packages, from photographs that the diffusion
model never saw; training, validation and test take different photographs. Three generators:

- `builtin-img2img` (SDEdit, Meng et al. 2022): the crop noised part of the way and denoised again. Content-matched, so that only
  the generator's trace differs.
- `builtin-txt2img`: samples from the crops' captions. Their content differs from the photographs'.
- `builtin-autoencoder`: the autoencoder's round trip. In the test only: a generator that training never saw.

Every image's caption is measured on the image itself, in the same words for real and generated ones.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from datamodules.files import lock, write_atomically
from datamodules.hashing import ContentHashes, hash_tree
from datamodules.records import FAKE, REAL, Record
from datamodules.sources.base import MEMO, Source
from datamodules.sources.photographs import PHOTOGRAPHS, Photograph, describe, load, photographs, random_crop_and_side
from modules.settings import fingerprint, settings_of

if TYPE_CHECKING:
    import torch

    from modules.diffusion.latent_diffusion import LatentDiffusion

VALIDATION = ("flower", "moon")
FORMAT = 2  # raised when this file or the photographs' crops and captions change what is made
DATASET = "builtin"


class BuiltInSource(Source):
    """Photographs' crops and three kinds of fakes, made once under the cache directory.

    Args:
        model: Directory of the diffusion model that makes the fakes.
        crops: Real crops of each photograph; each gives one `builtin-img2img`, and in the test one `builtin-autoencoder`. Every
            second one's caption gives a `builtin-txt2img`.
        strength: How far a crop is noised for image-to-image, from 0 (not at all) to 1 (all the way).
        sampling_steps: DDIM steps from noise to an image.
        sampling_guidance: Classifier-free guidance of the text-to-image samples.
        sampling_seed: Seed of crops and noise.
    """

    def __init__(
        self,
        model: str = "assets/tiny-diffusion",
        crops: int = 25,
        strength: float = 0.4,
        sampling_steps: int = 20,
        sampling_guidance: float = 2.0,
        sampling_seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < strength <= 1:
            msg = f"strength is {strength}; it must lie above 0 and at most at 1"
            raise ValueError(msg)
        self.model = model
        self.crops = crops
        self.strength = strength
        self.sampling_steps = sampling_steps
        self.sampling_guidance = sampling_guidance
        self.sampling_seed = sampling_seed

    @property
    def name(self) -> str:
        """`builtin`."""
        return DATASET

    @property
    def location(self) -> str:
        """What the records are made from."""
        return f"the built-in photographs and {self.model}"

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """The records; the images are made first where they are not there yet."""
        folder = self._folder(cache_dir)
        listing = folder / "records.json"
        with lock(folder.with_suffix(".lock")):
            if not listing.exists():
                self._make(folder)
        for fields in json.loads(listing.read_text()):
            yield Record(**{**fields, "path": str(folder / fields["path"])})

    def _folder(self, cache_dir: Path) -> Path:
        roles = {photo.name: photo.role for photo in PHOTOGRAPHS}
        settings = settings_of(self)["init_args"] | {"format": FORMAT, "roles": roles, "validation": VALIDATION}
        if Path(self.model).is_dir():
            settings["model"] = hash_tree(self.model, ContentHashes(cache_dir / MEMO))
        return (cache_dir / f"{DATASET}-{fingerprint(settings)}").resolve()

    def _make(self, folder: Path) -> None:
        """Write all images, then the list of records: a list means that all of them are there."""
        from tqdm import tqdm

        from modules.diffusion.latent_diffusion import LatentDiffusion

        folder.mkdir(parents=True, exist_ok=True)
        model = LatentDiffusion.from_pretrained(self.model)
        chosen = [(photo, "test") for photo in photographs("test")]
        chosen += [(photo, "val" if photo.name in VALIDATION else "train") for photo in photographs("detector")]
        records: list[Record] = []
        for photo, split in tqdm(chosen, desc="Making the built-in images", unit="photograph"):
            records += self._from_photograph(folder, model, photo, split)
        write_atomically(folder / "records.json", json.dumps([asdict(record) for record in records], indent=1).encode())

    def _from_photograph(self, folder: Path, model: "LatentDiffusion", photo: Photograph, split: str) -> list[Record]:
        import torch

        from modules.images import to_uint8

        seed = int(fingerprint({"photograph": photo.name, "seed": self.sampling_seed}), 16)
        rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        files = load(photo)
        cut = [random_crop_and_side(rng, files[i % len(files)]) for i in range(self.crops)]
        prompts = [describe(crop, photo.subject, side) for crop, side in cut]
        crops = torch.from_numpy(np.stack([crop for crop, _ in cut])).permute(0, 3, 1, 2)
        noise = torch.randn(2, *model.encode(crops).shape, generator=torch_rng)
        made = {"photographs": crops, "builtin-img2img": to_uint8(self._img2img(model, crops, prompts, noise[0]))}
        made["builtin-txt2img"] = to_uint8(self._txt2img(model, prompts[::2], noise[1, ::2]))
        if split == "test":
            made["builtin-autoencoder"] = to_uint8(model.decode(model.encode(crops)))
        records = []
        for generator, batch in made.items():
            stride = 2 if generator == "builtin-txt2img" else 1
            for i, image in enumerate(batch.permute(0, 2, 3, 1).numpy()):
                path = folder / generator / f"{photo.name}-{i * stride:04d}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(image).save(path)
                records.append(
                    Record(
                        key="",
                        label=REAL if generator == "photographs" else FAKE,
                        dataset=DATASET,
                        generator=generator,
                        path=str(path.relative_to(folder)),
                        split=split,
                        # Measured on this image, real or not: the prompt that made a fake would give its label away.
                        caption=describe(image, photo.subject, cut[i * stride][1]),
                        caption_source="template",
                        group=f"{DATASET}/{photo.name}",
                        pair=None if stride == 2 else f"{DATASET}/{photo.name}-{i:04d}",
                    )
                )
        return records

    def _img2img(self, model: "LatentDiffusion", crops: "torch.Tensor", captions: list[str], noise: "torch.Tensor") -> "torch.Tensor":
        start = max(1, round(self.strength * self.sampling_steps))
        level = model.schedule.path(self.sampling_steps, "denoise")[-start].alpha_from
        noised = level**0.5 * model.encode(crops) + (1 - level) ** 0.5 * noise
        return model.decode(model.denoise(noised, model.embed(captions), self.sampling_steps, start=start))

    def _txt2img(self, model: "LatentDiffusion", captions: list[str], noise: "torch.Tensor") -> "torch.Tensor":
        return model.decode(model.denoise(noise, model.embed(captions), self.sampling_steps, self.sampling_guidance))
