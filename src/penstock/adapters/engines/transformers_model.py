"""A causal language model of transformers, word by word: one request at a time in one thread.

The loop is our own and not `generate`: each request has a random source of its own, so a seed means the
same whatever else runs, and every field that it takes has an effect. Nothing is kept between requests,
so no payer finds another's prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.adapters.engines.transformers_settings import TransformersSettings

BROKEN = "\ufffd"
"""What a tokenizer says of bytes that are no whole character yet."""


WHY_CHARS_MAX = 300


class TemplateRefused(Exception):
    """A chat's template does not take the messages; `why` in its words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. `temperature` 0: the most likely. `top_k` 0: of all."""

    tokens_max: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Word:
    """One token: the text that it completes (maybe none yet), and how likely it and others were."""

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...]
    finish: str = ""
    """`stop` or `length` at the last one."""


class CausalModel:
    """The loaded model. Usable from several threads."""

    def __init__(self, settings: TransformersSettings) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(settings.threads)
        self._torch = torch
        self._device = settings.device
        if self._device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = str(Path(settings.folder))
        given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, **given)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, **given
        )
        self._model: Any = model.to(self._device).eval()
        self._ends = end_tokens(self._model.generation_config, self.tokenizer)
        self.context_tokens_max = settings.context_tokens_max

    def chat_ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """The prompt of a chat. Raises TemplateRefused."""
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
        except (TemplateError, AttributeError, LookupError, TypeError, ValueError) as error:
            # A template is the model's own program, and says no in its own way.
            raise TemplateRefused(f"{error}"[:WHY_CHARS_MAX]) from error
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def words(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Word]:
        """The answer to a prompt, token by token; the last one says why it ended."""
        told = Telling(self.tokenizer, sampling.stop)
        chance = self._torch.Generator(device="cpu")
        if sampling.seed is None:
            chance.seed()
        else:
            chance.manual_seed(sampling.seed % 2**63)
        cache, ids = None, list(prompt)
        for count in range(1, sampling.tokens_max + 1):
            logits, cache = self._step(ids, cache)
            known = self._torch.log_softmax(logits, dim=-1)
            token = int(self._chosen(logits, sampling, chance))
            is_end = token in self._ends
            is_last = count == sampling.tokens_max
            text, is_stopped = told.tell(token, is_end=is_end, is_last=is_last or is_end)
            finish = "stop" if is_end or is_stopped else "length" if is_last else ""
            yield Word(token, text, float(known[token]), self._top(known, sampling), finish)
            if finish:
                return
            ids = [token]

    def _step(self, ids: Sequence[int], cache: Any) -> tuple[Any, Any]:
        with self._torch.inference_mode():
            tensor = self._torch.tensor([list(ids)], device=self._device)
            out = self._model(input_ids=tensor, past_key_values=cache, use_cache=True)
            return out.logits[0, -1].float().cpu(), out.past_key_values

    def _chosen(self, logits: Any, sampling: Sampling, chance: Any) -> Any:
        torch = self._torch
        if sampling.temperature == 0:
            return torch.argmax(logits)
        scaled = logits / sampling.temperature
        ordered, places = torch.sort(scaled, descending=True)
        if sampling.top_k:
            ordered, places = ordered[: sampling.top_k], places[: sampling.top_k]
        shares = torch.softmax(ordered, dim=-1)
        before = torch.cumsum(shares, dim=-1) - shares
        shares[before >= sampling.top_p] = 0
        return places[torch.multinomial(shares, 1, generator=chance)[0]]

    def _top(self, known: Any, sampling: Sampling) -> tuple[tuple[int, float], ...]:
        if not sampling.top_logprobs:
            return ()
        values, places = self._torch.topk(known, sampling.top_logprobs)
        return tuple(zip(places.tolist(), values.tolist(), strict=True))


class Telling:
    """Tokens in, text out: whole characters, and nothing from the first stop on."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._held = max((len(stop) - 1 for stop in self._stops), default=0)
        self._ids: list[int] = []
        self._said = 0

    def tell(self, token: int, *, is_end: bool, is_last: bool) -> tuple[str, bool]:
        """(what can be said now, did a stop end it)."""
        if not is_end:
            self._ids.append(token)
        whole = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        cuts = [whole.index(stop) for stop in self._stops if stop in whole]
        if cuts:
            return self._up_to(whole, min(cuts)), True
        if is_last:
            return self._up_to(whole, len(whole)), False
        ready = len(whole.rstrip(BROKEN)) if whole.endswith(BROKEN) else len(whole)
        return self._up_to(whole, max(ready - self._held, self._said)), False

    def _up_to(self, whole: str, end: int) -> str:
        text, self._said = whole[self._said : end], max(end, self._said)
        return text


def end_tokens(config: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer."""
    given = getattr(config, "eos_token_id", None)
    ends = given if isinstance(given, list) else [given]
    return frozenset(end for end in (*ends, tokenizer.eos_token_id) if end is not None)
