"""Generators and codecs: features or ids to images, video and audio (rank 2)."""
