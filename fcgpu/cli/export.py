"""`fcgpu export`: a model as ONNX, for programs without fcgpu."""

import json
from argparse import Namespace
from pathlib import Path

from fcgpu.cli.run_directory import model_file
from fcgpu.errors import ConfigError
from fcgpu.formats.onnx import OPSET
from fcgpu.formats.onnx import save as save_onnx
from fcgpu.formats.safetensors import load as load_model
from fcgpu.host import readable


def export(args: Namespace) -> int:
    out = Path(args.out)
    if out.suffix.lower() != ".onnx":
        raise ConfigError(f"{args.out!r}: expected a name that ends in .onnx, which is what fcgpu exports to")
    model = load_model(model_file(args.model))
    digest = save_onnx(model, out)
    size = out.stat().st_size
    if args.json:
        print(json.dumps({"onnx": str(out), "opset": OPSET, "bytes": size, "sha256": digest}))
    else:
        print(f"{out}: ONNX, opset {OPSET}, {'-'.join(map(str, model.spec.sizes))}, {readable(size)}")
    return 0
