"""Denoising: how noisy a volume is, and the engines that use it.

::

    noise       estimate_noise        sigma of Rician (MR) or Gaussian (CT, others) noise
    classical   denoise_image         estimate, then non-local means or total variation
    residual    residual_structure    how much anatomy a denoiser took away with the noise
"""
