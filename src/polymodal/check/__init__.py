"""Proof that each system of the catalogue is what it says: `polymodal check`."""
