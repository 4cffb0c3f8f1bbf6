"""What the workers that draw are told. Nothing here needs numbers or models: the miner imports it."""

from penstock.adapters.engines.worker import FrameSettings

SETTINGS_FILE = "images.json"
"""What a model's folder says of how it draws (see images_onnx.py)."""
INDEX_FILE = "model_index.json"
"""What diffusers reads first."""


class ImagesSettings(FrameSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`folder` holds the model."""

    folder: str


class DiffusersSettings(FrameSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`folder`: the model. `device`: `auto`, or what torch calls it (`cuda:1`, `mps`, `cpu`)."""

    folder: str
    device: str = "auto"
