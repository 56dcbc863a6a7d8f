"""One thread a process: the tests' arrays are small, and they run in several processes.

Triton's kernels run in its interpreter, which it reads when they are defined.
"""

import os

# Read by PyTorch when it is imported, also by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")
