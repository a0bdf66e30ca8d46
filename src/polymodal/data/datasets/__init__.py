"""Training data in the formats that people have: files and folders -> samples by number, in constant memory.

    open_dataset("talks.jsonl") -> Dataset: len, sample(i) -> Sample(messages, name), manifest() with hashes
    Mixture([(dataset, weight), ...], seed) -> which sample stands at position 0, 1, 2, ... of a run

A sample's media stay files, members of an archive or bytes until they are decoded.
"""

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.datasets.sample import Dataset, Sample

__all__ = ["Dataset", "Mixture", "Sample", "open_dataset"]
