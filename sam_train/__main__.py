"""`python -m sam_train VERB ...`."""

import os

# Before torch is imported, because OpenMP reads it once. Threads that spin while they wait make a
# step up to 15 times slower as soon as another program runs on one of their cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from sam_train.cli import main

if __name__ == "__main__":
    main()
