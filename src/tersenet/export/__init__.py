"""ONNX files: write one, run it, compare it with the network."""

from tersenet.export.check import OnnxCheck, OnnxRunner, check_onnx
from tersenet.export.onnx import export_onnx

__all__ = ["OnnxCheck", "OnnxRunner", "check_onnx", "export_onnx"]
