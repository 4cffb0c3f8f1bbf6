"""Train tiny-chat on a CPU: a 2 M parameter Llama, about half an hour for the published quality.

    pip install torch transformers tokenizers
    python -m training.tiny_chat.train OUT_FOLDER --cpu-seconds 2000

Writes a Hugging Face folder that export.py turns into GGUF. What was learned the hard way: full
multi-head attention (with one key/value head copying never forms), copying exercises for the first
fifth of the run, Muon for the matrices, batches of one length, and loss on the answers only.
"""

import argparse
import json
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

from training.tiny_chat.corpus import Conversation, Mix, conversations, rendered

NEEDED = ("torch", "transformers", "tokenizers")
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
END, PAD, IGNORED = 2, 3, -100
VOCABULARY_MAX = 1536
CONTEXT_TOKENS_MAX = 1024
COPY_SHARE = 0.22
POOL_CONVERSATIONS = 4096
PUBLISHED = Path(__file__).parent / "published"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and on what: CPU seconds in all, tokens a batch, seed of corpus and weights."""

    out: Path
    cpu_seconds: float
    batch_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one conversation, and for each whether it is learned."""

    ids: list[int]
    learned: list[bool]


def missing_packages() -> list[str]:
    return [name for name in NEEDED if find_spec(name) is None]


def train_tokenizer(plan: Plan) -> Any:
    """Byte-level BPE with digits split one by one, so that numbers are read digit by digit."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_MAX,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    talks = islice(conversations(plan.seed, Mix.FULL), 20_000)
    tokenizer.train_from_iterator(
        (segment.text for talk in talks for segment in rendered(talk)), trainer
    )
    return tokenizer


def encoded(tokenizer: Any, talk: Conversation) -> Example:
    ids: list[int] = []
    learned: list[bool] = []
    for segment in rendered(talk):
        piece = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids.extend(piece)
        learned.extend([segment.learned] * len(piece))
    return Example(ids[:CONTEXT_TOKENS_MAX], learned[:CONTEXT_TOKENS_MAX])


def batches(tokenizer: Any, plan: Plan, mix: Mix) -> Iterator[list[Example]]:
    """Without end: fresh conversations, grouped by length (little padding), then shuffled."""
    talks = conversations(plan.seed + 1, mix)
    chance = random.Random(plan.seed)
    while True:
        pool = [encoded(tokenizer, talk) for talk in islice(talks, POOL_CONVERSATIONS)]
        pool.sort(key=lambda example: len(example.ids))
        grouped: list[list[Example]] = [[]]
        for example in pool:
            if len(example.ids) * (len(grouped[-1]) + 1) > plan.batch_tokens and grouped[-1]:
                grouped.append([])
            grouped[-1].append(example)
        chance.shuffle(grouped)
        yield from grouped


def new_model(vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            head_dim=32,
            max_position_embeddings=CONTEXT_TOKENS_MAX,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=END,
            pad_token_id=PAD,
        )
    )


def optimizers(model: Any) -> list[tuple[Any, float]]:
    """Muon for the inner matrices, Adam for embeddings and norms; each with its highest rate."""
    import torch

    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        inner, lr=0.02, momentum=0.95, weight_decay=0.0, adjust_lr_fn="original"
    )
    adam = torch.optim.AdamW(outer, lr=6e-3, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, 0.02), (adam, 6e-3)]


def loss_of(model: Any, batch: list[Example]) -> Any:
    """Mean cross entropy over the learned tokens, each guessed from those before it."""
    import torch

    longest = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), longest), PAD)
    targets = torch.full((len(batch), longest), IGNORED)
    for row, example in enumerate(batch):
        values = torch.tensor(example.ids)
        ids[row, : len(values)] = values
        keep = torch.tensor(example.learned)
        targets[row, : len(values)][keep] = values[keep]
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    wanted = targets[:, 1:]
    kept = wanted != IGNORED
    logits = torch.nn.functional.linear(hidden[kept], model.lm_head.weight)
    return torch.nn.functional.cross_entropy(logits, wanted[kept])


def rate_share(step: int, spent: float) -> float:
    """Warm up over 50 steps, hold to 45 % of the run, then fall in a line to 2 %."""
    fall = 1.0 if spent < 0.45 else max(0.02, (1 - spent) / 0.55)
    return min(1.0, (step + 1) / 50) * fall


def fit(model: Any, tokenizer: Any, plan: Plan) -> None:
    import torch

    steppers = optimizers(model)
    streams = {mix: batches(tokenizer, plan, mix) for mix in Mix}
    begun, step, average = process_time(), 0, None
    while (spent := (process_time() - begun) / plan.cpu_seconds) < 1:
        loss = loss_of(model, next(streams[Mix.COPY if spent < COPY_SHARE else Mix.FULL]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper, highest in steppers:
            for group in stepper.param_groups:
                group["lr"] = highest * rate_share(step, spent)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        average = loss.item() if average is None else 0.97 * average + 0.03 * loss.item()
        step += 1
        if step % 20 == 0:
            print(f"step {step} loss {average:.4f} spent {100 * spent:.0f} %", flush=True)


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """A folder for transformers, vLLM and export.py alike."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    for name in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(PUBLISHED / name, out / name)
    config = json.loads((out / "config.json").read_text("utf-8"))
    print(f"saved {out}: {config['vocab_size']} tokens in the vocabulary")


def main() -> None:
    parser = argparse.ArgumentParser(description="train tiny-chat on a CPU")
    parser.add_argument("out", type=Path)
    parser.add_argument("--cpu-seconds", type=float, default=2000)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if missing := missing_packages():
        sys.exit(f"Training needs {', '.join(missing)}. Run: pip install {' '.join(NEEDED)}")
    import torch

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    plan = Plan(arguments.out, arguments.cpu_seconds, arguments.batch_tokens, arguments.seed)
    tokenizer = train_tokenizer(plan)
    model = new_model(tokenizer.get_vocab_size())
    fit(model, tokenizer, plan)
    save(model, tokenizer, plan.out)


if __name__ == "__main__":
    main()
