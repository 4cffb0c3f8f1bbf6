"""Tensors for a GGUF file: which number format each gets, written through the `gguf` package."""

from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[Any]


class Encoding(StrEnum):
    """How matrices are stored. Vectors (norms, biases) stay f32: they are small and sensitive."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


def add_file_type(writer: Any, encoding: Encoding) -> None:
    """Say in the header what most tensors are, as `llama_ftype` counts."""
    from gguf import LlamaFileType

    kinds = {
        Encoding.F32: LlamaFileType.ALL_F32,
        Encoding.F16: LlamaFileType.MOSTLY_F16,
        Encoding.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    }
    writer.add_file_type(kinds[encoding])


def add_tensor(writer: Any, name: str, values: Tensor, *, encoding: Encoding) -> None:
    """Append one tensor under its GGUF name. Rows of a q8_0 matrix must be multiples of 32 long."""
    from gguf import GGMLQuantizationType, quants

    exact = np.ascontiguousarray(values.astype(np.float32))
    if exact.ndim == 1 or encoding is Encoding.F32:
        writer.add_tensor(name, exact)
    elif encoding is Encoding.F16:
        writer.add_tensor(name, exact.astype(np.float16))
    else:
        kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quants.quantize(exact, kind), raw_dtype=kind)


def write_all(writer: Any) -> None:
    """Write header, fields and tensors, then close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
