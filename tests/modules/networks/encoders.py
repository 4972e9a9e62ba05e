"""Tiny encoders for tests."""

import json

TINY = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def add_tiny(folder, name, **changes):
    """Make open_clip know a tiny CLIP of this name."""
    import open_clip

    path = folder / f"{name}.json"
    path.write_text(json.dumps(TINY | changes))
    open_clip.add_model_config(path)
    return f"open_clip/{name}"
