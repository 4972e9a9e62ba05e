"""What the root scripts share: the steps of a run, its callbacks, loggers and charts, studies, verdicts."""
