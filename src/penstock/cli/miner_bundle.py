"""A support bundle: what helps to find a fault, and nothing that belongs to its owner alone.

Keys, credentials in URLs, tokens and addresses of machines are taken out of every text before it goes
in; files that hold keys are never opened. What is left is shown by `tar tzf`.
"""

import io
import json
import platform
import re
import sys
import tarfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from penstock.cli.errors import Stop
from penstock.cli.miner_checks import Examined
from penstock.cli.miner_home import MinerHome
from penstock.kit.release import release
from penstock.miner.hardware import Hardware

LOG_TAIL_BYTES = 256 << 10
LOGS_MAX = 32
GONE = "[redacted]"
HIDDEN_FIELDS = re.compile(
    r"(secret|token(?!s)|password|passwd|seed|mnemonic|phrase|private|credential|api_?key|authorization)",
    re.IGNORECASE,
)
WHOLE_FIELDS = frozenset({"engine_env", "delegation", "key_file", "hub_token_file"})
"""Fields whose values are taken out whole: others' variables, and where keys lie."""
PACKAGES = ("penstock", "xllamacpp", "numpy", "onnxruntime", "torch", "vllm", "sglang", "ray")

RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ in any URL
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@\"']+@"), rf"\1{GONE}@"),
    # what a URL asks may hold a signature or a token
    (re.compile(r"(\bhttps?://[^\s?\"'<>]+)\?[^\s\"'<>]+"), rf"\1?{GONE}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {GONE}"),
    (
        re.compile(
            r"(?i)([\"']?[\w.-]*(?:secret|token(?!s)|password|passwd|seed|mnemonic|phrase|private|"
            r"api_?key|authorization)[\w.-]*[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;}]+)"
        ),
        rf"\1{GONE}",
    ),
    (re.compile(r"\b(?:sk|hf|ghp|gho|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{12,}"), GONE),
    # private keys and seeds are at least 32 bytes of hex; identities are public, and keep 8 digits
    (re.compile(r"\b((?:ed25519|sr25519|eip155):[0-9a-f]{8})[0-9a-f]{32,}\b"), r"\1…"),
    (re.compile(r"(?:0x)?[0-9a-fA-F]{64,}"), GONE),
    (re.compile(r"-----BEGIN [^-]+-----.*?(?:-----END [^-]+-----|\Z)", re.DOTALL), GONE),
    (re.compile(r"(?<![\d.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"), "[address]"),
    (
        re.compile(r"(?<![\w:])(?!::1\b)(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{0,4}(?![\w:])"),
        "[address]",
    ),
    (
        re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{1,4}:){1,6}(?::[0-9a-fA-F]{1,4}){1,6}(?![\w:])"),
        "[address]",
    ),
    (re.compile(r"\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b"), "[address]"),
    (re.compile(r"(?<![\w/])/(?:home|Users)/[^/\s\"':]+"), "/home/[user]"),
)


def redacted(text: str) -> str:
    """The text without what RULES name."""
    for pattern, instead in RULES:
        text = pattern.sub(instead, text)
    return text


def redacted_value(value: Any, *, name: str = "") -> Any:
    """A JSON value without secrets: by the names of its fields, and by the rules for texts."""
    if name in WHOLE_FIELDS and isinstance(value, dict):
        return dict.fromkeys(value, GONE)
    if name in WHOLE_FIELDS or (name and HIDDEN_FIELDS.search(name)):
        return GONE if value else value
    if isinstance(value, dict):
        return {key: redacted_value(one, name=str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [redacted_value(one) for one in value]
    return redacted(value) if isinstance(value, str) else value


def write_bundle(path: Path, home: MinerHome, examined: Examined) -> None:
    """The bundle as tar.gz at `path`, readable by its owner only. Raises Stop."""
    files = bundle_files(home, examined)
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        with tarfile.open(path, "w:gz") as bundle:
            for name, text in files.items():
                data = text.encode("utf-8", errors="replace")
                about = tarfile.TarInfo(f"penstock-support/{name}")
                about.size = len(data)
                about.mode = 0o600
                bundle.addfile(about, io.BytesIO(data))
    except OSError as error:
        raise Stop(f"cannot write the bundle {path}", why=error.strerror or str(error)) from error


def bundle_files(home: MinerHome, examined: Examined) -> dict[str, str]:
    """Name -> text of all that goes in, each redacted."""
    files = {
        "findings.json": _json(
            [
                [one.check, one.mark.value, redacted(one.what), one.code, redacted(one.remedy)]
                for one in examined.findings
            ]
        ),
        "hardware.json": _json(hardware_plain(examined.hardware)),
        "versions.json": _json(versions()),
        "config.json": _json(redacted_value(home.config())),
        "up.json": _json(redacted_value(home.wish())),
    }
    logs = [home.log_file, *sorted(home.path.glob("engines/**/*.log"))][:LOGS_MAX]
    for log in logs:
        name = str(log.relative_to(home.path)).replace("/", "_")
        files[f"logs/{name}"] = redacted(tail(log))
    return files


def tail(path: Path) -> str:
    """The end of a log, whole lines; "" where there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - LOG_TAIL_BYTES, 0))
            data = file.read(LOG_TAIL_BYTES)
    except OSError:
        return ""
    if size > LOG_TAIL_BYTES:
        data = data.partition(b"\n")[2]
    return data.decode("utf-8", errors="replace")


def hardware_plain(hardware: Hardware) -> dict[str, Any]:
    """Without serial numbers: what names this very machine stays here."""
    return {
        "class": hardware.kind,
        "model": hardware.model,
        "cores": hardware.cores,
        "memory_bytes": hardware.memory_bytes,
        "flags": list(hardware.host.flags),
        "gpus": [
            {
                "model": gpu.model,
                "maker": gpu.maker.value,
                "memory_bytes": gpu.memory_bytes,
                "driver": gpu.driver,
                "is_slice": bool(gpu.board) and gpu.board != gpu.uuid,
            }
            for gpu in hardware.gpus
        ],
    }


def versions() -> dict[str, Any]:
    """Of Penstock, Python, the system, and the packages that engines are made of."""
    installed = {
        str(one.metadata["Name"]).lower(): one.version
        for one in distributions()
        if one.metadata["Name"]
    }
    built = release()
    return {
        "penstock": built.version,
        "commit": built.commit,
        "is_compiled": built.is_compiled,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
