"""A frame of a miner as text for a terminal: pure, so that every width can be looked at in a test."""

from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from penstock.cli.output import plain, short, usd
from penstock.spec.units import PPM

NARROW_COLUMNS = 100
"""Below this some columns are left out."""
GIB = 1 << 30
STATE_STYLES = {
    "serving": "green",
    "failed": "red",
    "draining": "yellow",
    "suspended": "dim",
}
UNKNOWN = "-"
BAR_CELLS = 10
OTHERS_NARROW, OTHERS_WIDE = 51, 92
"""Columns that the table of instances takes beside the reason."""
WHY_CHARS_MIN = 16


def frame_view(frame: dict[str, Any], *, columns: int) -> RenderableType:
    """The whole view."""
    is_narrow = columns < NARROW_COLUMNS
    parts: list[RenderableType] = [_head(frame), Text("")]
    parts += [_machine(frame, is_narrow=is_narrow), Text("")]
    parts += [_instances(frame, columns=columns), Text("")]
    parts += [_rates(frame), Text(""), _earnings(frame)]
    window = frame["maintenance"]
    if window is not None:
        word = "in maintenance until" if window["is_on"] else "maintenance from"
        at_ms = window["until_ms"] if window["is_on"] else window["from_ms"]
        parts += [Text(""), Text(f"{word} {_moment(at_ms)}", style="yellow")]
    for problem in frame["problems"]:
        parts.append(Text("! " + plain(problem), style="yellow"))
    return Group(*parts)


def _head(frame: dict[str, Any]) -> Text:
    status = frame["status"]
    style = "green" if status == "ok" else "yellow"
    text = Text("penstock miner", style="bold")
    if frame["name"] != "miner":
        text.append(f" {plain(frame['name'])}", style="bold")
    text.append("  ")
    text.append("serving" if status == "ok" else status, style=style)
    text.append(f"  {short(frame['miner'])}")
    if frame["owner"] != frame["miner"]:
        text.append(f"  for {short(frame['owner'])}")
    text.append(f"  {plain(frame['endpoint'])}", style="dim")
    return text


def _machine(frame: dict[str, Any], *, is_narrow: bool) -> Table:
    """Cards, then the processor."""
    table = _table("device", "busy", "memory", "power", "heat")
    for one in frame["gpus"]:
        table.add_row(
            _cut(one["model"], 24 if is_narrow else 40),
            _busy(one["busy_ppm"]),
            _memory(one["memory_used_bytes"], one["memory_bytes"]),
            _power(one["power_mw"], one["power_max_mw"]),
            UNKNOWN if one["temperature_mc"] is None else f"{one['temperature_mc'] // 1000} °C",
        )
    host = frame["host"]
    name = f"{host['model'] or 'processor'}, {host['cores']} cores"
    table.add_row(
        _cut(name, 24 if is_narrow else 40),
        _busy(host["busy_ppm"]),
        _memory(host["memory_used_bytes"], host["memory_bytes"]),
        UNKNOWN,
        UNKNOWN,
    )
    return table


def _instances(frame: dict[str, Any], *, columns: int) -> RenderableType:
    is_narrow = columns < NARROW_COLUMNS
    if not frame["instances"]:
        window = frame["maintenance"]
        is_resting = window is not None and window["is_on"]
        why = "in maintenance" if is_resting else "the market lacks nothing that fits here"
        return Text(f"no instances: {why}")
    names = ["chute", "state", "running", "queue"]
    names += [] if is_narrow else ["instance", "on"]
    table = _table(*names, "why")
    why_chars = max(columns - (OTHERS_NARROW if is_narrow else OTHERS_WIDE), WHY_CHARS_MIN)
    for one in frame["instances"]:
        state = Text(one["state"], style=STATE_STYLES.get(one["state"], "cyan"))
        cells: list[RenderableType] = [
            _cut(one["name"], 20),
            state,
            f"{one['running']}/{one['parallel_max']}",
            str(one["waiting"]),
        ]
        if not is_narrow:
            cells += [_cut(one["instance"], 24), _cut(", ".join(one.get("slots") or ["-"]), 12)]
        cells.append(_cut(one["why"] or "", why_chars))
        table.add_row(*cells)
    return table


def _rates(frame: dict[str, Any]) -> Text:
    rates = frame["rates"]
    cached = rates["cached_ppm"]
    return Text(
        f"tokens/s {rates['completion_tokens_per_s_milli'] / 1000:.1f} out, "
        f"{rates['prompt_tokens_per_s_milli'] / 1000:.1f} in   "
        f"requests/min {rates['requests_per_min']}   "
        f"cache hits {UNKNOWN if cached is None else f'{cached * 100 // PPM} %'}"
    )


def _earnings(frame: dict[str, Any]) -> Table:
    """Gross is what was charged; yours is your part of it and of the pools; net is after costs."""
    earned = frame["earnings"]
    table = _table("earnings", "charged", "yours", "payouts", "power", "rent", "net")
    table.add_row("now, an hour", UNKNOWN, _usd(earned["now_nano_per_hour"]), *[UNKNOWN] * 4)
    for name, key in (("24 h", "day"), ("7 days", "week")):
        one = earned[key]
        net = Text(_usd(one["net_nano"]), style="green" if one["net_nano"] >= 0 else "red")
        table.add_row(
            name,
            _usd(one["gross_nano"]),
            _usd(one["own_nano"]),
            _usd(one["payout_nano"]),
            _usd(one["power_nano"]),
            _usd(one["rent_nano"]),
            net,
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _usd(nano: int) -> str:
    """Six decimals at most: a view, not the books."""
    rounded = abs(nano) // 1_000 * 1_000
    return ("-" if nano < 0 and rounded else "") + usd(rounded)


def _busy(ppm: int | None) -> str:
    if ppm is None:
        return UNKNOWN
    cells = ppm * BAR_CELLS // PPM
    return "█" * cells + "░" * (BAR_CELLS - cells) + f" {ppm * 100 // PPM:>3} %"


def _memory(used_bytes: int | None, whole_bytes: int) -> str:
    used = UNKNOWN if used_bytes is None else f"{used_bytes / GIB:.1f}"
    return f"{used}/{whole_bytes / GIB:.0f} GiB" if whole_bytes else UNKNOWN


def _power(now_mw: int | None, max_mw: int | None) -> str:
    if now_mw is None:
        return UNKNOWN
    return f"{now_mw // 1000}/{max_mw // 1000} W" if max_mw else f"{now_mw // 1000} W"


def _cut(text: str, chars: int) -> Text:
    """A stranger's words on one line, with nothing in them that means anything to a terminal."""
    text = plain(text).replace("\n", " ")
    return Text(text if len(text) <= chars else text[: chars - 1] + "…")


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000).astimezone().strftime("%Y-%m-%d %H:%M %Z")
