"""Feature shards: WebDataset tar files of safetensors with an offset index, written atomically and read at random.

A shard `shard-RRRR-NNNNNN.tar` holds `<key>.safetensors` (the features) and `<key>.json` (the record) for each sample, and can
be read by `webdataset` as it is. Its index `shard-RRRR-NNNNNN.index.json` is written last: what is not in an index does not
exist. Nothing here imports torch, so that workers and tools start quickly.
"""

from datamodules.shards.index import Row, ShardError, index_path
from datamodules.shards.reader import Features, IndexedReader, ShardReader, read_batch, rebuild_index, together
from datamodules.shards.tar import Arrays
from datamodules.shards.writer import ShardWriter

__all__ = [
    "Arrays",
    "Features",
    "IndexedReader",
    "Row",
    "ShardError",
    "ShardReader",
    "ShardWriter",
    "index_path",
    "read_batch",
    "rebuild_index",
    "together",
]
