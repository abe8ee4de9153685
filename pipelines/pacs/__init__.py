"""In and out of a PACS: studies fetched or received, the objects of a run sent back.

::

    address     where a PACS is               query       which studies are wanted
    identity    TLS and credentials           http        bounded HTTP
    multipart   messages taken apart as they arrive
    dicomweb    QIDO-RS, WADO-RS, STOW-RS     dimse       C-FIND, C-GET, C-MOVE, C-STORE
    association asked for, explained          commitment  who keeps what was sent
    guard       bounds round pynetdicom       server      bounds on who is connected
    scp         a server of our own           limits      what a peer may ask of us
    head        what an instance says it is   inbox       the folder in which they arrive
    peer        what fetch and send ask of a PACS
    fetch       studies in                    send        objects out, ledger
    listen      studies pushed to us          job         a run in a process of its own

Nothing here decodes a pixel, and nothing that a peer sends becomes part of a path or a message.
DICOMweb needs nothing beyond Radloom; DICOM's own protocol needs pynetdicom (the extra ``pacs``).
"""
