"""`vit-patch` as a module, where it is not installed: `python -m vit_patch_env.experiments`."""

from vit_patch_env.experiments.cli import main

if __name__ == "__main__":
    main()
