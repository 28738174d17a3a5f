"""Protocol `llamacpp` against llama.cpp's own perplexity program, on the same weights in an f32 GGUF file.

    python benchmarks/llamacpp.py --program .../llama-perplexity --model SmolLM2-135M-Instruct.Q4_1.gguf

The given file is dequantised and written anew in f32, since llama.cpp computes with
quantised weights as they are and we do not. Ends with 1 above a relative difference of 1e-3.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from isotone.config.data import Model
from isotone.evaluation.perplexity import llamacpp, score
from isotone.evaluation.scoring import Scorer
from isotone.models.origins.gguf import load_gguf
from small_model import texts

LARGEST = 1e-3


def as_single(source: Path, target: Path) -> None:
    """Copy a GGUF file, every tensor in fp32."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        items = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], items)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def theirs(program: Path, model: Path, text: Path, length: int) -> float:
    """What llama.cpp says: perplexity per token."""
    command = [program, "-m", model, "-f", text, "-c", str(length), "-b", str(length), "--no-escape", "-fa", "off"]
    done = subprocess.run([*map(str, command), "-ctk", "f32", "-ctv", "f32"], capture_output=True, text=True)
    found = re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr)
    if done.returncode or not found:
        sys.exit(f"{program} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return float(found[1])


def ours(model: Path, text: str, length: int) -> tuple[float, int]:
    """Our perplexity per token, and the tokens scored."""
    network, tokenizer = load_gguf(Model(source="gguf", path=str(model)))
    settings = GGUFReader(model).fields
    starts = "tokenizer.ggml.add_bos_token" in settings and settings["tokenizer.ggml.add_bos_token"].contents()
    prefix = int(settings["tokenizer.ggml.bos_token_id"].contents()) if starts else None
    ids = np.array(tokenizer.encode(text, add_special_tokens=False))
    ((tokens, nll),) = score(Scorer(network, prefix), ["text"], [llamacpp(ids, length, prefix)])
    return math.exp(nll / tokens), tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", type=Path, required=True, help="llama.cpp's llama-perplexity")
    parser.add_argument("--model", type=Path, required=True, help="a .gguf file that transformers can load")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--characters", type=int, default=60_000, help="of the embedded corpus")
    options = parser.parse_args()
    text = "\n".join(texts()[1])[: options.characters].strip()
    with tempfile.TemporaryDirectory() as folder:
        single, file = Path(folder) / "single.gguf", Path(folder) / "text.txt"
        as_single(options.model, single)
        file.write_text(text)
        other = theirs(options.program, single, file, options.length)
        own, tokens = ours(single, text, options.length)
    difference = abs(own / other - 1)
    print(
        f"{tokens} tokens scored: ours {own:.4f}, llama.cpp {other:.4f} per token, relative difference {difference:.1e}"
    )
    return int(difference > LARGEST)


if __name__ == "__main__":
    sys.exit(main())
