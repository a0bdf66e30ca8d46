"""Recordings of any length to transcripts, with Whisper (arXiv 2212.04356)."""
