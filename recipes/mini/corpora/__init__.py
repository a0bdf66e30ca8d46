"""Picture sets carried by package registries, read into one record: names, captions, splits, leak guards."""
