"""How fast a model is here: what `polymodal bench` measures, and how."""
