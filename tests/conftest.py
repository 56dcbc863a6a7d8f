"""One thread a process: the tests' arrays are small, and they run in several processes."""

import os

# Read by PyTorch when it is imported, also by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
