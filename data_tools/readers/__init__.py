"""One small reader per source format: what images there are, and the masks of one of them.

To add a format: a `Record` with `masks()`, a function that lists the records, and a subcommand in
`data_tools/convert.py`. Everything after that (sizes, filters, JPEGs, shards) is shared.
"""
