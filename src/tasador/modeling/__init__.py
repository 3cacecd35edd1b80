"""Modeling: what a model's estimates go through: target scale, interval, prediction, parity.

Everything here needs numpy only; `parity` also runs exported models with onnxruntime.
"""
