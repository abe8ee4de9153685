"""What a run leaves on the disk so that a kill at any instant costs nothing.

- `receipt`: what one stage did for one study; `records`: a study as discovered;
- `folder`: the order of steps in which a stage's files and its receipt appear;
- `files`: atomic writes; `plain`: stable JSON;
- `measure`: seconds, memory, versions; `failure`: an exception as a reason for people.
"""
