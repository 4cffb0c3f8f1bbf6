"""Train tiny-image on one CPU thread: about half an hour for the published quality.

    pip install torch diffusers transformers safetensors
    python -m training.tiny_image.train OUT_FOLDER --cpu-seconds 1800

Writes a diffusers folder that export.py turns into the files Penstock ships. Flow matching: the
model sees a mixture of picture and noise and learns the direction from picture to noise. What was
learned the hard way: a transformer over patches sees four times the pictures of a UNet in the same
time; the text encoder first and alone; centred shapes first; Muon for the matrices; the mean of
the weights, not the last of them.
"""

import argparse
import random
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from training.tiny_image import model
from training.tiny_image.scenes import any_mask, any_scene, caption, painted
from training.tiny_image.words import teach_words

NEEDED = ("torch", "diffusers", "transformers", "safetensors")
BATCH = 32
DROPPED_SHARE = 0.1
"""Pictures learned without their words, which guidance needs."""
CENTRED_FIRST, CENTRED_LATER = 0.9, 0.5
NEARLY_NOISE_SHARE, NEARLY_NOISE_WIDTH = 0.35, 0.4
MUON_RATE, ADAM_RATE = 0.02, 2e-3
MEAN_OF_STEPS_MAX = 0.998
WORDS_SHARE = 0.03
SAVED_STEPS = 300


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and the seed of scenes, noise and weights. `begun`: a folder to go on from."""

    out: Path
    cpu_seconds: float
    seed: int
    begun: Path | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What becomes the pipeline. Only the transformer learns from pictures."""

    tokenizer: Any
    encoder: Any
    transformer: Any

    def parameters(self) -> list[Any]:
        return list(self.transformer.parameters())

    def save(self, out: Path) -> None:
        self.tokenizer.save_pretrained(out / "tokenizer")
        self.encoder.save_pretrained(out / "text_encoder")
        self.transformer.save_pretrained(out / "transformer")
        model.new_decoder().save_pretrained(out / "vae")


def first_parts(plan: Plan) -> Parts:
    """Those of a former run, or a new transformer and an encoder that has learned the words."""
    tokenizer = model.new_tokenizer()
    encoder, transformer = model.new_text_encoder(), model.new_transformer()
    if plan.begun is None:
        teach_words(tokenizer, encoder, cpu_seconds=WORDS_SHARE * plan.cpu_seconds, seed=plan.seed)
    else:
        encoder = type(encoder).from_pretrained(plan.begun / "text_encoder")
        transformer = type(transformer).from_pretrained(plan.begun / "transformer")
    encoder.requires_grad_(False)
    transformer.train()
    return Parts(tokenizer, encoder, transformer)


def missing_packages() -> list[str]:
    return [name for name in NEEDED if find_spec(name) is None]


def batch_of(chance: random.Random, *, spent: float) -> tuple[Any, list[str]]:
    """Pictures (BATCH, 3, 32, 32) and their captions, some of them empty."""
    import torch

    centred = CENTRED_FIRST if spent < 0.3 else CENTRED_LATER
    scenes = [any_scene(chance, centred_share=centred) for _ in range(BATCH)]
    pictures = [
        painted(any_mask(scene, chance), scene.colour, scene.background) for scene in scenes
    ]
    words = ["" if chance.random() < DROPPED_SHARE else caption(scene, chance) for scene in scenes]
    return torch.from_numpy(np.stack(pictures)), words


def loss_of(parts: Parts, pictures: Any, words: list[str]) -> Any:
    """Mean square of what the guessed direction misses."""
    import torch

    tokens = parts.tokenizer(words, padding=True, truncation=True, return_tensors="pt")
    mask = tokens.attention_mask
    states = model.text_states(parts.encoder, tokens.input_ids, mask)
    noise = torch.randn_like(pictures)
    share = noise_shares(len(pictures))
    mixture = torch.lerp(pictures, noise, share[:, None, None, None])
    guess = model.velocity(parts.transformer, mixture, share, states=states, mask=mask)
    return (guess - (noise - pictures)).pow(2).mean()


def noise_shares(count: int) -> Any:
    """How much of each mixture is noise, 0 to 1: mostly near half, and many near one.

    Near one the words alone say what the picture is. Elsewhere the picture shows through, and the
    words are hardly needed: a model that sees little of pure noise draws well, but anything.
    """
    import torch

    middle = torch.sigmoid(torch.randn(count) + 0.2)
    high = 1 - NEARLY_NOISE_WIDTH * torch.rand(count) ** 2
    return torch.where(torch.rand(count) < NEARLY_NOISE_SHARE, high, middle)


def optimizers(parts: Parts) -> list[tuple[Any, float]]:
    """Muon for the inner matrices, Adam for the rest; each with its highest rate."""
    import torch

    named = list(parts.transformer.named_parameters())
    inner = [p for name, p in named if p.ndim == 2 and is_inner(name)]
    kept = {id(p) for p in inner}
    outer = [p for _, p in named if id(p) not in kept]
    muon = torch.optim.Muon(
        inner, lr=MUON_RATE, momentum=0.95, weight_decay=0.0, adjust_lr_fn="original"
    )
    adam = torch.optim.AdamW(outer, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, MUON_RATE), (adam, ADAM_RATE)]


def is_inner(name: str) -> bool:
    """Matrices between hidden states; embeddings, tables and the last layer are not."""
    outside = ("embed", "shared", "scale_shift_table", "proj_out")
    return not any(word in name for word in outside)


def rate_share(step: int, spent: float) -> float:
    """Warm up over 50 steps, hold to 45 % of the run, then fall in a line to 2 %."""
    fall = 1.0 if spent < 0.45 else max(0.02, (1 - spent) / 0.55)
    return min(1.0, (step + 1) / 50) * fall


def fit(parts: Parts, plan: Plan) -> float:
    """Learn until the CPU seconds are spent; the parts end with their mean weights."""
    import torch

    steppers, chance = optimizers(parts), random.Random(plan.seed)
    mean = [p.detach().clone() for p in parts.parameters()]
    begun, step, average = process_time(), 0, 0.0
    while (spent := (process_time() - begun) / plan.cpu_seconds) < 1:
        loss = loss_of(parts, *batch_of(chance, spent=spent))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        for stepper, highest in steppers:
            for group in stepper.param_groups:
                group["lr"] = highest * rate_share(step, spent)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        step += 1
        torch._foreach_lerp_(
            mean,
            [p.detach() for p in parts.parameters()],
            1 - min(MEAN_OF_STEPS_MAX, step / (step + 20)),
        )
        average += max(0.02, 1 / step) * (loss.item() - average)
        if step % 100 == 0:
            print(f"step {step} loss {average:.4f} spent {100 * spent:.0f} %", flush=True)
        if step % SAVED_STEPS == 0:
            swap(parts, mean)
            parts.save(plan.out)
            swap(parts, mean)
    swap(parts, mean)
    return average


def swap(parts: Parts, mean: list[Any]) -> None:
    """Exchange the weights with the others."""
    for weights, others in zip(parts.parameters(), mean, strict=True):
        weights.data, others.data = others.data, weights.data


def main() -> None:
    parser = argparse.ArgumentParser(description="train tiny-image on a CPU")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cpu-seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", type=Path, dest="begun", help="go on from this trained folder")
    arguments = parser.parse_args()
    if missing := missing_packages():
        sys.exit(f"Training needs {', '.join(missing)}. Run: pip install {' '.join(NEEDED)}")
    import torch

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    plan = Plan(arguments.out, arguments.cpu_seconds, arguments.seed, arguments.begun)
    parts = first_parts(plan)
    loss = fit(parts, plan)
    parts.save(plan.out)
    print(f"saved {plan.out}, loss {loss:.4f}")


if __name__ == "__main__":
    main()
