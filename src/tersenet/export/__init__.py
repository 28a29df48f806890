"""ONNX files: write one, run it, compare it with the network."""

from tersenet.export.check import OnnxCheck, OnnxRunner, check_onnx
from tersenet.export.onnx import export_onnx
from tersenet.export.qdq import Int8Info, export_int8

__all__ = ["Int8Info", "OnnxCheck", "OnnxRunner", "check_onnx", "export_int8", "export_onnx"]
