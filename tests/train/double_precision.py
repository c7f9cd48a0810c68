"""``poster-edge`` with everything in float64, so that two ways to the same result differ by nothing else."""

import torch

torch.set_default_dtype(torch.float64)

if __name__ == "__main__":
    from poster_edge.cli.main import main

    main()
