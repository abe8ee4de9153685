"""One module for each network: `denoising`, `registration`, `translation`, `segmentation`."""
