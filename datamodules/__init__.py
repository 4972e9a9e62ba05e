"""Where images come from, how their features are cached, and the DataModule that serves them."""
