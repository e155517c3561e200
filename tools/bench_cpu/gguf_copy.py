"""Copies a GGUF file with its matrices in one type, as a program: python gguf_copy.py SOURCE TARGET DTYPE.

llama.cpp computes in the type that the file has. The copy is made in a process of its own, whose memory does not count.
"""

import sys

import gguf
import numpy as np

TYPES = {"float32": gguf.GGMLQuantizationType.F32, "bfloat16": gguf.GGMLQuantizationType.BF16}
_OWN = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def copy(source: str, target: str, dtype: str) -> None:
    """Writes the copy. Vectors are in float32, as llama.cpp wants them."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if not field.name.startswith(_OWN):
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind = TYPES[dtype] if values.ndim > 1 else TYPES["float32"]
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    copy(*sys.argv[1:])
