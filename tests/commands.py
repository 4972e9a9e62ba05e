"""Options that make the real commands small enough for a test."""

SMALL = [
    "--config=configs/quickstart.yaml",
    "--model.init_args.backbone=resnet18",
    "--data.source.init_args.crops=4",
    "--data.source.init_args.sampling_steps=2",
    "--data.extractor.init_args.steps=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]


def options(place, name, *more):
    """Options of train.py for a run of this name, with cache and runs under `place`."""
    return [*SMALL, f"--data.cache_dir={place / 'cache'}", f"--runs_dir={place / 'runs'}", f"--name={name}", *more]
