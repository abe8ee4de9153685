"""The deep image prior of deepinv: NUMBERS.npy (I, J, K), its answers step by step, to OUT.npy.

Run by `denoise_methods.py` with the interpreter that the user names; it needs deepinv alone. The
library's own `DeepImagePrior` and `ConvDecoder`, at its own learning rate; it runs a fixed number
of steps, so that what it shows on the way (T, I, J, K) is kept for the caller to choose from.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from deepinv.models import ConvDecoder, DeepImagePrior
from deepinv.physics import Denoising


class Watched(torch.nn.Module):
    """The decoder, which keeps a copy of every so many of its answers."""

    def __init__(self, decoder: torch.nn.Module, every: int) -> None:
        super().__init__()
        self.decoder, self.every = decoder, every
        self.steps, self.kept = 0, []

    def forward(self, source: torch.Tensor) -> torch.Tensor:
        answer = self.decoder(source)
        if self.steps and self.steps % self.every == 0:
            self.kept.append(answer.detach()[0, 0].numpy().copy())
        self.steps += 1
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("given", type=Path)
    parser.add_argument("made", type=Path)
    parser.add_argument("--channels", type=int, default=256, help="the library's own: 256")
    parser.add_argument("--steps", type=int, default=2500, help="the library's own: 2500")
    parser.add_argument("--every", type=int, default=25, help="steps between answers kept")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    image = torch.from_numpy(np.load(options.given))
    start = tuple(math.ceil(n / 32) for n in image.shape)
    decoder = ConvDecoder((1, *image.shape), in_size=start, channels=options.channels)
    watched = Watched(decoder, options.every)
    prior = DeepImagePrior(watched, (options.channels, *start), iterations=options.steps)
    prior(image[None, None], Denoising())
    np.save(options.made, np.stack(watched.kept))


if __name__ == "__main__":
    main()
