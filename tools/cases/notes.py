"""Signed notes and checkpoints: formats only; signatures are those of published examples."""

from typing import Any

from penstock.spec.log import EMPTY_ROOT
from penstock.spec.notes import (
    Algorithm,
    Checkpoint,
    cosigned_message,
    key_id,
    parse_checkpoint,
    parse_note,
)

GO_KEY = "1a5cd907143c384c41e830c5bce12aa8817ec5649aaabf2c31388b35b2d744d6"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
CHECKPOINT = Checkpoint(origin="operator.example/log", size=7, root=EMPTY_ROOT).text()


def run_key_id(given: Any) -> str:
    algorithm = Algorithm(given["algorithm"])
    public_key = bytes.fromhex(given["public_key"])
    return key_id(given["name"], algorithm, public_key=public_key).hex()


def run_parse_note(given: Any) -> Any:
    note = parse_note(given["note"].encode())
    return {
        "text": note.text,
        "signatures": [
            {"name": line.name, "key_id": line.key_id.hex(), "signature": line.signature.hex()}
            for line in note.signatures
        ],
    }


def run_parse_checkpoint(given: Any) -> Any:
    checkpoint = parse_checkpoint(given["text"])
    return {
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
    }


def run_cosigned_message(given: Any) -> str:
    return cosigned_message(given["text"], given["time_s"]).decode()


FUNCTIONS = {
    "key_id": (
        run_key_id,
        {
            "published_key": {"name": "PeterNeumann", "algorithm": 1, "public_key": GO_KEY},
            "cosigner": {"name": "PeterNeumann", "algorithm": 4, "public_key": GO_KEY},
        },
    ),
    "parse_note": (
        run_parse_note,
        {
            "published_note": {"note": GO_NOTE},
            "unended_line_is_refused": {"note": GO_NOTE[:-1]},
            "no_signature_is_refused": {"note": "text\n\n"},
            "plus_in_a_name_is_refused": {"note": "text\n\n\u2014 a+b AAAAAAA=\n"},
            "short_signature_is_refused": {"note": "text\n\n\u2014 a AAAAAA==\n"},
            "loose_base64_is_refused": {"note": "text\n\n\u2014 a AAAAAAB=\n"},
            "control_character_is_refused": {"note": "te\txt\n\n\u2014 a AAAAAAA=\n"},
        },
    ),
    "parse_checkpoint": (
        run_parse_checkpoint,
        {
            "three_lines": {"text": CHECKPOINT},
            "extension_is_refused": {"text": CHECKPOINT + "more\n"},
            "leading_zero_is_refused": {"text": CHECKPOINT.replace("\n7\n", "\n07\n")},
            "short_root_is_refused": {"text": "a\n7\nAAAA\n"},
        },
    ),
    "cosigned_message": (
        run_cosigned_message,
        {"checkpoint": {"text": CHECKPOINT, "time_s": 1_700_000_000}},
    ),
}
