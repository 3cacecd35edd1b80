"""Modeling: what exists at predict time (model, target scale, interval) and how it is made exact.

`onnx_model`, `target`, `interval` and `valuation` need numpy and onnxruntime only; `importers`,
`onnx_export` and `parity` belong to training time and load their libraries when they are used.
"""
