"""Denoising: how noisy a volume is, and the engines that use it.

::

    noise       estimate_noise        sigma of Rician (MR) or Gaussian (CT, others) noise
    methods     denoise_image         estimate, then one of
                                        network  learned   denoise_with_network
                                        dip      prior     deep_image_prior
                                        bm4d     bm4d      block_matching, the user's own install
                                        nlb, dct, nlm, tv  radloom.transforms.denoising
    residual    residual_structure    how much anatomy a denoiser took away with the noise
"""
