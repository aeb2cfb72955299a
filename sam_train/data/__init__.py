"""SA-1B shards -> `Batch`: nothing after it knows about files, nothing in it about GPUs.

`SamDataModule` is imported from `sam_train.data.datamodule`, because Lightning takes seconds to
import and most users of this package do not need it.
"""
