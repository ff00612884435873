# What we use of aiokafka 0.14, which does not say that it has types.
# ruff: noqa: D, N818 - names of another project
class StickyPartitionAssignor:
    name: str
