"""What the worker over transformers is told."""

from penstock.adapters.engines.worker import FrameSettings


class TransformersSettings(FrameSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`folder`: the model. `device`: `auto`, or what torch calls it (`cuda:1`, `mps`, `cpu`)."""

    folder: str
    context_tokens_max: int
    device: str = "auto"
