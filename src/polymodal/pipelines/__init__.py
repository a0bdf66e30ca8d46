"""What a loaded model does for a person: classes, vectors, matching, transcription, pictures (rank 5)."""
