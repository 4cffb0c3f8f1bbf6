"""A small text-to-image model on onnxruntime: words in, pixels out, the same for the same seed.

The folder is a diffusers folder of the PixArt kind with a graph beside each part's weights
(`text_encoder/model.onnx`, `transformer/model.onnx`, `vae/model.onnx`) and `images.json`, which tells
how to draw. Every graph takes its numbers from the safetensors file that diffusers reads too.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.adapters.engines.images_request import Bounds, Drawing
from penstock.adapters.engines.images_settings import SETTINGS_FILE
from penstock.adapters.engines.png import Pixels

GRAPHS = ("text_encoder", "transformer", "vae")
WORDS = re.compile(r"\w+|[^\w\s]+")
ERRORS_ONLY = 3
TIME_SCALE = 1_000
"""The model counts noise from 0 to 1000."""

Floats = npt.NDArray[np.float32]


class DrawingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`images.json`. The model works on `channels` of `side_cells` by `side_cells`."""

    channels: int
    side_cells: int
    side_pixels: int
    side_pixels_max: int
    latent_scale: float
    tokens_max: int
    steps: int
    steps_max: int
    guidance: float

    def bounds(self) -> Bounds:
        return Bounds(
            side_pixels=self.side_pixels,
            side_pixels_max=self.side_pixels_max,
            steps=self.steps,
            steps_max=self.steps_max,
            guidance=self.guidance,
        )


class WordTokenizer:
    """`tokenizer.json` of whole words in lower case, as far as such a model needs one."""

    def __init__(self, path: Path, *, tokens_max: int) -> None:
        plan = msgspec.json.decode(path.read_bytes())
        if plan["model"]["type"] != "WordLevel":
            raise ValueError(f"{path} is no tokenizer of whole words")
        self._ids: dict[str, int] = plan["model"]["vocab"]
        self._unknown = self._ids[plan["model"]["unk_token"]]
        self._end = self._ids["</s>"]
        self._pad = self._ids["<pad>"]
        self._tokens_max = tokens_max

    def pair(self, left: str, right: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(ids, mask), both (2, tokens_max): padded at the end; the mask is 1 where a token counts."""
        ids = np.full((2, self._tokens_max), self._pad, np.int64)
        for at, text in enumerate((left, right)):
            row = self.ids_of(text)
            ids[at, : len(row)] = row
        return ids, (ids != self._pad).astype(np.int64)

    def ids_of(self, text: str) -> list[int]:
        words = WORDS.findall(text.lower())[: self._tokens_max - 1]
        return [*(self._ids.get(word, self._unknown) for word in words), self._end]


@dataclass(frozen=True, slots=True)
class OnnxPainter:
    """A loaded model. `draw` may be called from several threads at once."""

    settings: DrawingSettings
    tokenizer: WordTokenizer
    graphs: dict[str, Any]

    def draw(self, drawing: Drawing) -> Pixels:
        """(height, width, 3). The same drawing gives the same pixels on the same machine."""
        ids, mask = self.tokenizer.pair(drawing.negative_prompt, drawing.prompt)
        states = self.run("text_encoder", ids=ids, mask=mask)
        small = self.sampled(drawing, states, mask)
        large = self.run("vae", latents=small / np.float32(self.settings.latent_scale))
        return framed(large[0], width=drawing.width, height=drawing.height)

    def sampled(self, drawing: Drawing, states: Floats, mask: npt.NDArray[np.int64]) -> Floats:
        """From noise to picture along the directions that the model names, (1, channels, s, s).

        Each step goes by this direction and the change since the last (Adams-Bashforth), which is
        as good as twice the steps without.
        """
        cells = self.settings.side_cells
        chance = np.random.Generator(np.random.PCG64(drawing.seed))
        now = chance.standard_normal((1, self.settings.channels, cells, cells), np.float32)
        before: Floats | None = None
        length = np.float32(1 / drawing.steps)
        for step in range(drawing.steps):
            noise = 1 - step / drawing.steps
            way = self.direction(now, noise, drawing.guidance, states=states, mask=mask)
            bend = way if before is None else np.float32(1.5) * way - np.float32(0.5) * before
            now = now - length * bend
            before = way
        return now

    def direction(
        self,
        now: Floats,
        noise: float,
        guidance: float,
        *,
        states: Floats,
        mask: npt.NDArray[np.int64],
    ) -> Floats:
        """From picture to noise, away from the negative prompt by `guidance`."""
        times = np.full(2, noise * TIME_SCALE, np.float32)
        without, with_words = self.run(
            "transformer", latents=np.repeat(now, 2, 0), states=states, mask=mask, times=times
        )
        guided: Floats = without + np.float32(guidance) * (with_words - without)
        return guided[np.newaxis]

    def run(self, part: str, **inputs: npt.NDArray[Any]) -> Floats:
        values: Floats = self.graphs[part].run(None, inputs)[0]
        return values


def load_painter(folder: Path, *, threads: int) -> OnnxPainter:
    """Raises OSError, ValueError or RuntimeError (onnxruntime's) for a folder that is not whole."""
    settings = msgspec.json.decode((folder / SETTINGS_FILE).read_bytes(), type=DrawingSettings)
    tokenizer_file = folder / "tokenizer" / "tokenizer.json"
    return OnnxPainter(
        settings=settings,
        tokenizer=WordTokenizer(tokenizer_file, tokens_max=settings.tokens_max),
        graphs={part: open_graph(folder / part / "model.onnx", threads=threads) for part in GRAPHS},
    )


def open_graph(path: Path, *, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def framed(picture: Floats, *, width: int, height: int) -> Pixels:
    """(3, side, side) of -1 to 1 as (height, width, 3): scaled to fit, the edges drawn out to fill."""
    side = min(width, height)
    scaling = resampling(picture.shape[-1], side)
    scaled = scaling @ picture @ scaling.T
    pixels = np.clip(np.rint((scaled + 1) * 127.5), 0, 255).astype(np.uint8)
    left, top = (width - side) // 2, (height - side) // 2
    margins = ((top, height - side - top), (left, width - side - left), (0, 0))
    return np.pad(pixels.transpose(1, 2, 0), margins, mode="edge")


def resampling(old: int, new: int) -> Floats:
    """(new, old): linear between the nearest pixels, or the mean of those that become one."""
    reach = max(old / new, 1.0)
    middles = (np.arange(new) + 0.5) * old / new - 0.5
    distance = abs(np.arange(old)[None] - middles[:, None])
    weights = np.maximum(1 - distance / reach, 0)
    shares: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares
