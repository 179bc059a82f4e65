#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Convert weights between Ultralytics' .pt, numpy's .npz and safetensors.

  convert_weights.py best.pt best.safetensors        weights for pretrained=best.safetensors
  convert_weights.py best.safetensors best.pt        a run's weights for YOLO("best.pt")
  convert_weights.py weights.npz weights.safetensors

Options: --names a,b,c   class names, where the input has none
         --imgsz N       side of the input in pixels, where the input does not say
         --model NAME    yolov8n, yolo11s, ... or a description FILE.yaml, where the input has none

.pt needs torch and ultralytics: run this in the environment that wrote the file. A .pt file holds
pickled code; convert only files that you trust. .npz needs numpy. Safetensors are written and read
here, no package is needed. The formats: docs/formats/checkpoint.md.
"""
import argparse
import json
import os
import re
import struct
import sys

# numpy's kind and width of an element, and the name in the file.
TYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "u1": "U8", "b1": "BOOL"}
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
KNOWN = re.compile(r"^yolo(v8|11)[nsmlx]$")
HEADER_BYTES_MAX = 100_000_000


class BadInput(Exception):
    """What is wrong with a file or an option, for people."""


def write_safetensors(path, tensors, metadata):
    """tensors: name -> (type, shape, bytes). Wide types first, so that each one is aligned."""
    header = {"__metadata__": metadata}
    order = sorted(tensors, key=lambda name: -WIDTHS[tensors[name][0]])
    offset = 0
    for name in order:
        kind, shape, data = tensors[name]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path + ".part"
    with open(part, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(tensors[name][2])
    os.replace(part, path)


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else HEADER_BYTES_MAX + 1
    if length > min(HEADER_BYTES_MAX, len(data) - 8):
        raise BadInput(f"{path}: no safetensors file: its header does not fit into {len(data)} bytes.")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        body = memoryview(data)[8 + length :]
        tensors = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            count = WIDTHS[entry["dtype"]]
            for side in entry["shape"]:
                count *= side
            if not 0 <= begin <= end <= len(body) or end - begin != count:
                raise BadInput(f"{path}: tensor {name}: its offsets do not fit its shape.")
            tensors[name] = (entry["dtype"], entry["shape"], bytes(body[begin:end]))
        return tensors, metadata
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: no safetensors file: {error!r}.") from error


def read_npz(path):
    import numpy

    tensors = {}
    with numpy.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            array = numpy.ascontiguousarray(arrays[name]).reshape(arrays[name].shape)
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            kind = f"{array.dtype.kind}{array.dtype.itemsize}"
            if kind not in TYPES:
                raise BadInput(f"{path}: {name} is of type {array.dtype}. Known: {', '.join(TYPES)}.")
            tensors[name] = (TYPES[kind], array.shape, array.tobytes())
    return tensors, {}


def describe(yaml):
    """The metadata that make the network again: a known name, or the description itself."""
    stem = os.path.splitext(os.path.basename(str(yaml.get("yaml_file", ""))))[0]
    scale = yaml.get("scale") or ""
    if re.fullmatch(r"yolo(v8|11)", stem) and scale:
        stem += scale
    if KNOWN.match(stem):
        return {"model": stem}
    kept = {key: yaml[key] for key in ("nc", "backbone", "head") if key in yaml}
    for key in ("activation", "depth_multiple", "width_multiple"):
        if key in yaml:
            kept[key] = yaml[key]
    if yaml.get("scales"):
        letter = scale if scale in yaml["scales"] else next(iter(yaml["scales"]))
        kept["scales"] = {letter: yaml["scales"][letter]}  # The first one counts.
    return {"model": stem or "custom", "model_yaml": json.dumps(kept)}


def read_pt(path):
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    except TypeError:  # Before torch 1.13 there was no such argument.
        checkpoint = torch.load(path, map_location="cpu")
    metadata = {}
    module = checkpoint
    if isinstance(checkpoint, dict) and ("model" in checkpoint or "ema" in checkpoint):
        module = checkpoint.get("ema") or checkpoint["model"]
        imgsz = (checkpoint.get("train_args") or {}).get("imgsz")
        if isinstance(imgsz, int):
            metadata["imgsz"] = str(imgsz)
    if isinstance(module, torch.nn.Module):
        names = getattr(module, "names", None)
        if isinstance(names, dict):
            names = [names[i] for i in sorted(names)]
        if names:
            metadata["class_names"] = json.dumps([str(name) for name in names])
        if isinstance(getattr(module, "yaml", None), dict):
            metadata.update(describe(module.yaml))
        module = module.state_dict()
    tensors = {}
    for name, tensor in module.items():
        if not isinstance(tensor, torch.Tensor):
            raise BadInput(f"{path}: {name} is no tensor. Give the .pt file of a detection model.")
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        array = tensor.detach().cpu().contiguous().numpy()
        tensors[name] = (TYPES[f"{array.dtype.kind}{array.dtype.itemsize}"], tensor.shape, array.tobytes())
    return tensors, metadata


def write_pt(path, tensors, metadata):
    """A file for YOLO(path) and for YOLO(yaml).load(path)."""
    import tempfile

    import numpy
    import torch
    from ultralytics.nn.tasks import DetectionModel

    kinds = {name: kind for kind, name in TYPES.items()}
    state = {}
    for name, (kind, shape, data) in tensors.items():
        if kind not in kinds:
            raise BadInput(f"{name} is of type {kind}, which numpy does not have.")
        array = numpy.frombuffer(data, dtype="<" + kinds[kind]).reshape(shape)
        state[name] = torch.from_numpy(array.copy())
    names = json.loads(metadata.get("class_names", "[]"))
    if not names or "model" not in metadata:
        raise BadInput("a .pt file needs the model and the class names: give --model and --names.")
    with tempfile.TemporaryDirectory() as folder:
        description = metadata["model"] + ".yaml"
        if "model_yaml" in metadata:
            description = os.path.join(folder, description)
            with open(description, "w", encoding="utf-8") as file:
                file.write(metadata["model_yaml"])
        model = DetectionModel(description, nc=len(names), verbose=False)
    model.load_state_dict(state, strict=True)
    model.names = dict(enumerate(names))
    model.args = {"task": "detect", "model": description, "imgsz": int(metadata.get("imgsz", 640))}
    torch.save({"epoch": -1, "model": model.half(), "ema": None, "optimizer": None,
                "train_args": model.args}, path)


def apply_options(options, metadata):
    if options.names:
        metadata["class_names"] = json.dumps(options.names.split(","))
    if options.imgsz:
        metadata["imgsz"] = str(options.imgsz)
    if options.model:
        metadata.pop("model_yaml", None)
        metadata["model"] = os.path.splitext(os.path.basename(options.model))[0]
        if not KNOWN.match(metadata["model"]):
            with open(options.model, encoding="utf-8") as file:
                metadata["model_yaml"] = file.read()


READERS = {".pt": read_pt, ".npz": read_npz, ".safetensors": read_safetensors}
WRITERS = {".pt": write_pt, ".safetensors": write_safetensors}


def suffix_of(path, known):
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in known:
        raise BadInput(f"{path}: the suffix is none of {', '.join(known)}.")
    return suffix


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--names", help="class names, separated by commas")
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--model")
    options = parser.parse_args()
    try:
        read = READERS[suffix_of(options.source, READERS)]
        write = WRITERS[suffix_of(options.target, WRITERS)]
        tensors, metadata = read(options.source)
        apply_options(options, metadata)
        metadata.setdefault("format", "pt")
        write(options.target, tensors, metadata)
    except (BadInput, OSError, ImportError) as error:
        print(f"convert_weights: {error}", file=sys.stderr)
        return 2
    print(f"{options.target}: {len(tensors)} tensors; {metadata.get('model', 'model not named')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
