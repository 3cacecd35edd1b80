"""Tree ensembles: their arrays, importers, kernels, ONNX and TreeSHAP."""
