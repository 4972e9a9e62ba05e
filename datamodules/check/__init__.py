"""What is in a data set, before anything is trained on it: `python -m datamodules.check PATH`."""
