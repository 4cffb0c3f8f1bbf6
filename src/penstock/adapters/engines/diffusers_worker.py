"""The worker that draws with diffusers: `python -m <this module>`. The frame is worker.py.

It loads a folder in diffusers' layout on the best device there is. Only weights in safetensors, only
pipelines that diffusers itself knows, and nothing from the network: the miner fetches models.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock.adapters.engines.images_request import (
    IMAGES_PATH,
    Bounds,
    Drawing,
    images_skill,
)
from penstock.adapters.engines.images_settings import (
    INDEX_FILE,
    SETTINGS_FILE,
    DiffusersSettings,
)
from penstock.adapters.engines.png import Pixels
from penstock.adapters.engines.worker import Loaded, refused, run_worker

SIDE_PIXELS_MAX = 2_048
CELL_PIXELS = 16
STEPS_MAX = 100
CELLS = 128
STEPS = 28
GUIDANCE = 4.5
REASON_CHARS_MAX = 200


class Defaults(msgspec.Struct, frozen=True):
    """What a model's `images.json` may say of itself; other fields are of no matter here."""

    steps: int = STEPS
    guidance: float = GUIDANCE


def load(settings: DiffusersSettings) -> Loaded:
    """Raises ImportError without diffusers or torch, OSError or ValueError for a bad folder."""
    import diffusers
    import torch

    torch.set_num_threads(settings.threads)
    folder = Path(settings.folder)
    check_folder(folder)
    device = best_device(torch) if settings.device == "auto" else settings.device
    precision = torch.float32 if device == "cpu" else torch.float16
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder,
        dtype=precision,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    bounds = bounds_of(pipeline, folder)
    painter = images_skill(draw_with(pipeline, torch), bounds)
    version = f"diffusers {diffusers.__version__} torch {torch.__version__} on {device}"
    return Loaded({IMAGES_PATH: painter}, version)


def check_folder(folder: Path) -> None:
    """Raises ValueError for a model that brings its own code: we run what diffusers knows only."""
    index = msgspec.json.decode((folder / INDEX_FILE).read_bytes(), type=dict[str, Any])
    parts = [kind for kind in index.values() if isinstance(kind, list)]
    is_stock = all(part[:1] in (["diffusers"], ["transformers"], [None]) for part in parts)
    has_own = not isinstance(index.get("_class_name"), str) or any(folder.rglob("*.py"))
    if has_own or not is_stock:
        raise ValueError(f"{folder} needs code of its own, which is never run here")


def best_device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def bounds_of(pipeline: Any, folder: Path) -> Bounds:
    """The model's own side, from the network that draws and the decoder that enlarges."""
    file = folder / SETTINGS_FILE
    told = msgspec.json.decode(file.read_bytes(), type=Defaults) if file.is_file() else Defaults()
    network = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    cells: Any = getattr(getattr(network, "config", None), "sample_size", None)
    scale: int = getattr(pipeline, "vae_scale_factor", 8)
    if not isinstance(cells, int):
        cells = getattr(pipeline, "default_sample_size", CELLS)
    return Bounds(
        side_pixels=min(cells * scale, SIDE_PIXELS_MAX),
        side_pixels_max=SIDE_PIXELS_MAX,
        steps=told.steps,
        steps_max=STEPS_MAX,
        guidance=told.guidance,
    )


def draw_with(pipeline: Any, torch: Any) -> Callable[[Drawing], Pixels]:
    """One picture at a time, so that a seed gives the same picture whatever `n` is."""
    known = frozenset(inspect.signature(pipeline.__call__).parameters)

    def draw(drawing: Drawing) -> Pixels:
        wanted = {
            "prompt": drawing.prompt,
            "negative_prompt": drawing.negative_prompt,
            "width": rounded_up(drawing.width),
            "height": rounded_up(drawing.height),
            "num_inference_steps": drawing.steps,
            "guidance_scale": drawing.guidance,
            # Chance comes from the processor, which is alike on every machine.
            "generator": torch.Generator("cpu").manual_seed(drawing.seed),
            "output_type": "np",
        }
        try:
            with torch.inference_mode():
                drawn = pipeline(**{name: wanted[name] for name in wanted if name in known})
        except (ValueError, RuntimeError) as error:
            # Shapes that a network cannot take show only inside it.
            size = f"{drawing.width}x{drawing.height}"
            why = str(error)[:REASON_CHARS_MAX]
            raise refused(f"This model cannot draw {size}: {why}.", "size") from error
        whole = np.rint(np.clip(drawn.images[0], 0, 1) * 255).astype(np.uint8)
        return cut_out(whole, width=drawing.width, height=drawing.height)

    return draw


def rounded_up(side_pixels: int) -> int:
    """To what every pipeline takes: whole cells in whole patches."""
    return -(-side_pixels // CELL_PIXELS) * CELL_PIXELS


def cut_out(pixels: Pixels, *, width: int, height: int) -> Pixels:
    """The middle of a picture."""
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


if __name__ == "__main__":
    run_worker(DiffusersSettings, load)
