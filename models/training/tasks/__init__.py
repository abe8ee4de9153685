"""What is learnt: `denoising`, `registration` (`overlap`, `poses`), `translation`, `segmentation`.

`adversarial`, `contrasts`, `pairs`, `unpaired`: other ways to the same networks, for users' scans.
"""
