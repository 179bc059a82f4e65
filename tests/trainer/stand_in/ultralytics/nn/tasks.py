# SPDX-License-Identifier: GPL-3.0-or-later
"""What scripts/convert_weights.py needs of Ultralytics, for tests: a network of the names and
shapes that the environment gives (STAND_IN_SHAPES: a JSON file, name -> [type, shape]), with the
attributes that a network of theirs has. It computes nothing."""
import json
import os

import torch

TYPES = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class DetectionModel(torch.nn.Module):
    def __init__(self, cfg, nc, verbose=True):
        super().__init__()
        if os.path.exists(cfg):
            with open(cfg, encoding="utf-8") as file:
                self.yaml = {"yaml_file": cfg, "text": file.read()}
        else:  # yolo11n.yaml is yolo11.yaml at scale n.
            stem = os.path.splitext(cfg)[0]
            self.yaml = {"yaml_file": stem[:-1] + ".yaml", "scale": stem[-1]}
        self.yaml["nc"] = nc
        with open(os.environ["STAND_IN_SHAPES"], encoding="utf-8") as file:
            shapes = json.load(file)
        for name, (kind, shape) in shapes.items():
            tensor = torch.zeros(shape, dtype=TYPES[kind])
            *path, leaf = name.split(".")
            at = self
            for part in path:
                if part not in at._modules:
                    at.add_module(part, torch.nn.Module())
                at = at._modules[part]
            if leaf in STATISTICS:
                at.register_buffer(leaf, tensor)
            else:
                at.register_parameter(leaf, torch.nn.Parameter(tensor))
