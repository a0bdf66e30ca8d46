"""Encoders: images, video, audio and text to features (rank 2)."""
