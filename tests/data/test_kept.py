"""What records keep of decoded media: together within bounds, dropped with the record, decoded again when needed."""

import gc

import numpy as np

from polymodal.data.kept import DECODED, DecodedCache
from polymodal.data.media import Image


class Record:
    pass


def test_what_was_used_longest_ago_goes_first():
    cache, records = DecodedCache(100), [Record() for _ in range(4)]
    for record in records[:3]:
        cache.put(record, "picture", object(), 40)
    assert [cache.get(record, "picture") is None for record in records[:3]] == [True, False, False]
    assert cache.get(records[1], "picture") is not None  # used again, so the other one goes
    cache.put(records[3], "picture", object(), 40)
    assert cache.get(records[2], "picture") is None and cache.get(records[1], "picture") is not None
    assert cache.nbytes == 80


def test_the_newest_is_kept_whatever_its_size():
    cache, first, second = DecodedCache(100), Record(), Record()
    cache.put(first, 1, "small", 10)
    cache.put(second, 1, "large", 1000)
    assert cache.get(first, 1) is None and cache.get(second, 1) == "large"


def test_a_record_that_is_gone_keeps_nothing():
    cache, record = DecodedCache(100), Record()
    cache.put(record, 16_000, "samples", 50)
    cache.put(record, 8_000, "samples", 25)
    del record
    gc.collect()
    assert cache.nbytes == 0


def test_many_records_of_large_pictures_keep_little():
    records = [Image(np.full((3000, 3000, 3), level, np.uint8)) for level in range(20)]  # 27 MB each
    for record in records:
        assert record.picture is record.picture
    assert DECODED.nbytes <= 256 * 1024 * 1024
    assert [record.picture.getpixel((0, 0))[0] for record in records] == list(range(20))
