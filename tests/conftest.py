"""What all tests share: one thread, because threads that wait for each other cost tiny nets more than they give."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
