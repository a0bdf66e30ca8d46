"""Text to speech: sentences -> phonemes (eSpeak NG) -> Kokoro's symbols -> samples."""
