"""Turn a trained folder into what Penstock ships: one folder for diffusers and onnxruntime alike.

    pip install torch diffusers transformers safetensors onnx onnxscript
    python -m training.tiny_image.export TRAINED_FOLDER OUT_FOLDER

Weights are kept once, as half precision in safetensors; the graph beside them (`model.onnx`) holds
no numbers of its own but points into that file. The same folder and versions give the same bytes.
"""

import argparse
import json
import sys
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.tiny_image import model
from training.tiny_image.scenes import SIDE_PIXELS

NEEDED = ("torch", "diffusers", "transformers", "safetensors", "onnx", "onnxscript")
PAIR = 2
"""Every picture is drawn with and without its words at once."""
SETTINGS = {
    "channels": 3,
    "side_cells": SIDE_PIXELS,
    "side_pixels": SIDE_PIXELS * model.UPSCALING,
    "side_pixels_max": 2048,
    "latent_scale": model.LATENT_SCALE,
    "tokens_max": model.TOKENS_MAX,
    "steps": 12,
    "steps_max": 50,
    "guidance": 2.5,
}
WEIGHTS = {
    "text_encoder": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def missing_packages() -> list[str]:
    return [name for name in NEEDED if find_spec(name) is None]


def load_pipeline(trained: Path) -> Any:
    """The trained parts and a scheduler, in half precision as they will be kept."""
    import torch
    from diffusers import AutoencoderTiny, PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import PreTrainedTokenizerFast, T5EncoderModel

    return PixArtAlphaPipeline(
        tokenizer=PreTrainedTokenizerFast.from_pretrained(trained / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(trained / "text_encoder"),
        vae=AutoencoderTiny.from_pretrained(trained / "vae"),
        transformer=PixArtTransformer2DModel.from_pretrained(trained / "transformer"),
        scheduler=model.new_scheduler(),
    ).to(dtype=torch.float16)


def graph_parts(pipeline: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Each part as a module with plain inputs, and examples of those inputs."""
    import torch

    # The exporter takes apart attention that is written out, not the fused kind.
    pipeline.text_encoder.set_attn_implementation("eager")

    def text(ids: Any, mask: Any) -> Any:
        return model.text_states(pipeline.text_encoder, ids, mask)

    def direction(latents: Any, states: Any, mask: Any, times: Any) -> Any:
        share = times / model.TIME_SCALE
        return model.velocity(pipeline.transformer, latents, share, states=states, mask=mask)

    def enlarged(latents: Any) -> Any:
        return pipeline.vae.decoder(latents)

    ids = torch.zeros(PAIR, model.TOKENS_MAX, dtype=torch.int64)
    mask = torch.ones(PAIR, model.TOKENS_MAX, dtype=torch.int64)
    states = torch.zeros(PAIR, model.TOKENS_MAX, model.TEXT_WIDTH)
    latents = torch.zeros(PAIR, 3, SIDE_PIXELS, SIDE_PIXELS)
    times = torch.full((PAIR,), 500.0)
    return {
        "text_encoder": (as_module(pipeline.text_encoder, text), {"ids": ids, "mask": mask}),
        "transformer": (
            as_module(pipeline.transformer, direction),
            {"latents": latents, "states": states, "mask": mask, "times": times},
        ),
        "vae": (as_module(pipeline.vae, enlarged), {"latents": latents[:1]}),
    }


def as_module(part: Any, forward: Callable[..., Any]) -> Any:
    """What the exporter takes: a module whose weights are those of `part`."""
    import torch

    module = torch.nn.Module()
    module.part = part
    module.forward = forward
    return module


def write_graph(module: Any, inputs: dict[str, Any], weights: Path, out: Path) -> None:
    """An ONNX file whose weights lie in a safetensors file of the same folder."""
    import onnx
    import torch

    program = torch.onnx.export(
        module.eval(),
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=["out"],
        dynamo=True,
        optimize=False,
        external_data=False,
    )
    graph = program.model_proto
    places = places_in(weights)
    kept = [tensor for tensor in graph.graph.initializer if plain(tensor.name) not in places]
    moved = [tensor for tensor in graph.graph.initializer if plain(tensor.name) in places]
    nodes = list(graph.graph.node)
    del graph.graph.initializer[:], graph.graph.node[:]
    for tensor in moved:
        start, length = places[plain(tensor.name)]
        half = onnx.TensorProto(
            name=f"{tensor.name}.half",
            data_type=onnx.TensorProto.FLOAT16,
            dims=tensor.dims,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        fields = {"location": weights.name, "offset": str(start), "length": str(length)}
        for key, value in fields.items():
            half.external_data.add(key=key, value=value)
        kept.append(half)
        cast = onnx.helper.make_node(
            "Cast",
            [half.name],
            [tensor.name],
            to=onnx.TensorProto.FLOAT,
            name=f"{tensor.name}.full",
        )
        graph.graph.node.append(cast)
    graph.graph.initializer.extend(kept)
    graph.graph.node.extend(cleaned(node) for node in nodes)
    del graph.graph.value_info[:], graph.metadata_props[:]
    out.write_bytes(graph.SerializeToString(deterministic=True))


def cleaned(node: Any) -> Any:
    """A node without the exporter's remarks, which name files of the machine that exported.

    PixArt squeezes a side that is longer than one, which does nothing in torch and fails in ONNX.
    """
    del node.metadata_props[:]
    node.doc_string = ""
    if node.op_type == "Squeeze":
        node.op_type = "Identity"
        del node.input[1:]
    return node


def plain(name: str) -> str:
    return name.removeprefix("part.")


def places_in(weights: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor of a safetensors file lies: name -> (offset, length) in bytes."""
    with weights.open("rb") as file:
        head_bytes = int.from_bytes(file.read(8), "little")
        head = json.loads(file.read(head_bytes))
    base = 8 + head_bytes
    return {
        name: (base + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in head.items()
        if name != "__metadata__"
    }


def forget_places(folder: Path) -> None:
    """Take out of the settings where the parts were read from."""
    for path in folder.glob("*/config.json"):
        told = json.loads(path.read_text("utf-8"))
        told.pop("_name_or_path", None)
        path.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", "utf-8")


def write_digests(folder: Path) -> None:
    """`SHA256` in the format of sha256sum, of every file but the card and itself."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.suffix not in {".md", ""}
    )
    lines = [
        f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files
    ]
    (folder / "SHA256").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="a trained folder as files to ship")
    parser.add_argument("trained", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if missing := missing_packages():
        sys.exit(f"Exporting needs {', '.join(missing)}. Run: pip install {' '.join(NEEDED)}")
    import torch

    out = arguments.out
    pipeline = load_pipeline(arguments.trained)
    pipeline.save_pretrained(out, safe_serialization=True)
    pipeline.to(dtype=torch.float32)
    for name, (module, inputs) in graph_parts(pipeline).items():
        write_graph(module, inputs, out / name / WEIGHTS[name], out / name / "model.onnx")
    (out / "images.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
    forget_places(out)
    write_digests(out)
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"wrote {out}: {total} bytes")


if __name__ == "__main__":
    main()
