"""Training data in the formats that people have: files and folders -> samples by number, in constant memory.

    opening.open_dataset(path) -> Dataset: len, sample(i) -> Sample(messages, name), manifest() with hashes
    mixture.Mixture([dataset, ...], weights, seed) -> which sample stands at position 0, 1, 2, ... of a run

A sample's media stay files, members of an archive or bytes until they are decoded.
"""
