"""DICOM objects of a study's results, over the source images that a viewer shows.

::

    source      the instances that a volume came from, headers only
    uids        UIDs that follow from source, kind and content
    equipment   who made it, from whose scanner's images, for research use
    heading     what all instances of one series share; finishing, writing, reading
    result      one series of objects, and what its self-check holds it to

    derived     denoised, warped and pseudo-CT volumes as MR, CT and PET images
    parametric  an attenuation map as Parametric Map
    registration  rigid, affine and deformable Spatial Registration
    measurements  volumes and checks as a Structured Report (TID 1500)
    pictures    the report's pictures as Secondary Capture
    document    the report as Encapsulated PDF (`pdf` lays it out)
    stage       the stage `export` that makes them all
"""
