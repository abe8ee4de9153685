"""Translation of MR into Hounsfield units.

::

    network       HounsfieldNetwork    any backbone -> HU, tissue classes, expected error
    declaration   read_declaration     what a bundle says of its contrasts and channels
    intensity     normalised_mr        what the network gets
    head_box      HeadBoxd             where: the head and the air close to it
    outputs       in_physical_units    what it says
    fitness       fitness_of           whether an image is the MR of a whole head
    tissues       classes_of_hu        air, soft tissue, bone
    attenuation   attenuation_511kev   HU -> cm-1, for PET
"""
