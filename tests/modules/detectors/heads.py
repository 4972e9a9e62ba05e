"""Vectors of classes, and what training does to heads on them."""

import warnings

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

from modules.detectors.checkpoint import load_detector, save_weights
from modules.detectors.samples import Samples

NAMES = ("real", "gan", "diffusion", "flow")


def clouds(classes=3, count=120, dimension=5, seed=0, spread=1.0, shift=3.0):
    """Vectors `[N, D]` around one centre a class, and their classes."""
    centres = torch.randn(classes, dimension, generator=torch.Generator().manual_seed(99)) * shift
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    return centres[targets] + spread * torch.randn(count, dimension, generator=generator), targets


def samples_of(vectors, targets, binary=False, feature="embedding"):
    labels = (targets != 0).long()
    return Samples({feature: vectors}, labels, labels if binary else targets, [str(i) for i in range(len(labels))])


class Images(Dataset):
    """What a data module gives of such vectors."""

    def __init__(self, vectors, targets):
        self.vectors, self.targets = vectors, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        target = int(self.targets[i])
        told = {"key": str(i), "label": int(target != 0), "target": target, "pair": -1, "index": i}
        return told | {"features": {"embedding": self.vectors[i]}}


def trainer_of(folder, **options):
    return pl.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def fitted(head, folder, train, validation, epochs=1, batch_size=20):
    """A head after train.py's steps: classes, all samples, then training or validation only; and its trainer."""
    if head.target != "binary":
        head.learn_classes(list(NAMES[: int(train[1].max()) + 1]))
    head.begin(samples_of(*train, binary=head.target == "binary"))
    trainer = trainer_of(folder, max_epochs=epochs, check_val_every_n_epoch=epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = DataLoader(Images(*validation), batch_size=50)
        if head.learns:
            trainer.fit(head, DataLoader(Images(*train), batch_size=batch_size), loader)
        else:
            trainer.validate(head, loader, verbose=False)
    return head.eval(), trainer


def stored(head, folder):
    """The head as it comes back from both kinds of file, written without a trainer."""
    described = {"detector": head.settings(), "data": {}, **head.measured()}
    torch.save({"state_dict": head.state_dict(), "undertow": described}, folder / "x.ckpt")
    save_weights(head, {}, folder / "x.safetensors")
    return [load_detector(str(folder / name))[0] for name in ("x.ckpt", "x.safetensors")]
