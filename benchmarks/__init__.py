"""What the gateway costs, beside programs that do less and programs that do the same: `python -m benchmarks`.

The law here: a number is only quoted as a ratio to another contender in the same interleaved run, because absolute times on a
shared machine drift by half. It is apart from the tests because it fails for reasons that are no bug (a busy neighbour, a slow
disk). Linux only: the processor time of a contender and its memory are read from the kernel by process id.
"""
