"""Ranking metrics: pure functions, and torchmetrics wrappers around them."""
