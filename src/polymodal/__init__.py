"""polymodal: multimodal models from one set of parts."""

__version__ = "0.1.0"
