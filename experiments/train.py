"""`vit-patch train` as a module, for torchrun: `torchrun -m vit_patch_env.experiments.train`."""

import sys

from vit_patch_env.experiments.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
