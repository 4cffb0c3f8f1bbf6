"""The worker that draws on onnxruntime: `python -m <this module>`. The frame is worker.py."""

from pathlib import Path

from penstock.adapters.engines.images_onnx import load_painter
from penstock.adapters.engines.images_request import IMAGES_PATH, images_skill
from penstock.adapters.engines.images_settings import ImagesSettings
from penstock.adapters.engines.worker import Loaded, run_worker


def load(settings: ImagesSettings) -> Loaded:
    """Raises ImportError without onnxruntime; see load_painter."""
    import onnxruntime

    painter = load_painter(Path(settings.folder), threads=settings.threads)
    skill = images_skill(painter.draw, painter.settings.bounds())
    return Loaded({IMAGES_PATH: skill}, f"onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    run_worker(ImagesSettings, load)
