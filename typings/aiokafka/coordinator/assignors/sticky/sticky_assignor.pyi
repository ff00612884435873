# What we use of aiokafka 0.14, which does not say that it has types; the names are its own.
class StickyPartitionAssignor:
    name: str
