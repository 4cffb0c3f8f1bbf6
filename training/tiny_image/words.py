"""Teach the text encoder what a caption says, before it sees any picture.

Its state at the end mark must tell shape, colour, background, size and place; five linear heads read
them and are thrown away. Learned from pictures alone, which of two colours is the shape's takes very
long: most mixtures of picture and noise show it, so the words are hardly asked.
"""

import random
from collections.abc import Mapping, Sequence
from time import process_time
from typing import Any

from training.tiny_image import model
from training.tiny_image.scenes import COLOURS, PLACES, SHAPES, SIZES, any_scene, caption

FACTS: Mapping[str, Sequence[str]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "background": tuple(COLOURS),
    "size": tuple(SIZES),
    "place": tuple(PLACES),
}
BATCH = 64
RATE, PLACE_RATE = 2e-3, 3e-2
"""The second is for the table that tells words apart by their distance: it starts at almost nothing."""


def teach_words(tokenizer: Any, encoder: Any, *, cpu_seconds: float, seed: int) -> float:
    """Learn until the CPU seconds are spent; returns the mean loss of a fact, in nats."""
    import torch

    heads = torch.nn.ModuleDict(
        {fact: torch.nn.Linear(model.TEXT_WIDTH, len(names)) for fact, names in FACTS.items()}
    )
    tables = [p for name, p in encoder.named_parameters() if "relative_attention_bias" in name]
    kept = {id(p) for p in tables}
    others = [p for p in encoder.parameters() if id(p) not in kept]
    stepper = torch.optim.AdamW(
        [{"params": [*others, *heads.parameters()]}, {"params": tables}], weight_decay=0.0
    )
    chance = random.Random(seed)
    begun, step, average = process_time(), 0, 0.0
    while (spent := (process_time() - begun) / cpu_seconds) < 1:
        for group, rate in zip(stepper.param_groups, (RATE, PLACE_RATE), strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - spent)
        loss = loss_of(tokenizer, encoder, heads, chance)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        stepper.step()
        stepper.zero_grad(set_to_none=True)
        step += 1
        average += max(0.02, 1 / step) * (loss.item() - average)
        if step % 200 == 0:
            print(f"words: step {step} loss {average:.4f} spent {100 * spent:.0f} %", flush=True)
    return average


def loss_of(tokenizer: Any, encoder: Any, heads: Any, chance: random.Random) -> Any:
    """Mean over facts and captions. What a caption leaves out can only be guessed."""
    import torch

    scenes = [any_scene(chance, centred_share=0.5) for _ in range(BATCH)]
    words = [caption(scene, chance) for scene in scenes]
    tokens = tokenizer(words, padding=True, truncation=True, return_tensors="pt")
    states = model.text_states(encoder, tokens.input_ids, tokens.attention_mask)
    ends = states[torch.arange(BATCH), tokens.attention_mask.sum(1) - 1]
    losses = [
        torch.nn.functional.cross_entropy(
            heads[fact](ends), torch.tensor([names.index(getattr(scene, fact)) for scene in scenes])
        )
        for fact, names in FACTS.items()
    ]
    return torch.stack(losses).mean()
