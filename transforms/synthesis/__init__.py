"""The generator: heads deformed and rendered at random, with all their truths.

::

    tissues, relaxation       structures, and what each looks like
    anatomy                   a label map, or the phantom, as structure bytes
    phantom                   a procedural head (phantom_shape, phantom_head, phantom_brain, solids)
    deformation, lattice      diffeomorphic maps between sample and anatomy
    edits, masks              tissue that goes, comes or changes
    composition, texture      what a voxel holds beside its label
    mr, protocols, contrast   MR signal at random or by physics
    ct                        HU
    anomalies, anomaly_looks  what may be anywhere
    artefacts                 what scanners make of it
    sample                    one draw, and a pair, from all of these
    draws, fields, parameters, rotations
"""
