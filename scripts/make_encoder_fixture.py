#!/usr/bin/env python3
"""Writes tests/fixtures/encoders/text_line.safetensors: what ONNX Runtime makes of tests/fixtures/encoders/line.png with the published file.

    diffmas fetch text-line
    python3 -m venv VENV && VENV/bin/pip install numpy onnx==1.23.2 onnxruntime==1.32.0 pillow safetensors
    VENV/bin/python scripts/make_encoder_fixture.py PATH_OF_THE_FETCHED_FILE

The features are those before the recogniser's head, brought to mean 0 and variance 1 frame by frame, in windows of eight frames every
fourth: what a projector takes. The file is not cut nor changed here but for its outputs.
"""
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/encoders"
FEATURES = "p2o.pd_op.transpose.8.0"

model = onnx.load(sys.argv[1])
model.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, None))
session = onnxruntime.InferenceSession(model.SerializeToString())
pixels = np.asarray(Image.open(FOLDER / "line.png").convert("RGB"), np.float32)
assert pixels.shape == (48, 320, 3), "an image that need not be resized"
planes = (pixels / 127.5 - 1)[:, :, ::-1].transpose(2, 0, 1)[None]
(frames,) = session.run([FEATURES], {"x": np.ascontiguousarray(planes)})
frames = frames[0].astype(np.float64)
frames -= frames.mean(1, keepdims=True)
frames /= np.sqrt((frames**2).mean(1, keepdims=True) + 1e-6)
padded = np.concatenate([np.zeros((2, 120)), frames, np.zeros((2, 120))])
windows = np.stack([padded[4 * i : 4 * i + 8].reshape(-1) for i in range(10)])
save_file({"features": windows.astype(np.float32)}, FOLDER / "text_line.safetensors")
print(windows.shape, windows.std())
