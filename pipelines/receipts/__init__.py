"""What a run leaves on the disk so that a kill at any instant costs nothing.

- `receipt`: what one stage did for one study; `records`: a study as discovered;
- `folder`: the order of steps in which a stage's files and its receipt appear;
- `files`: atomic writes; `plain`: stable JSON;
- `runlog`: what happened when; `story`: how a file came to be; `verify`: whether all is as it was;
- `measure`: seconds, memory, versions; `failure`: an exception as a reason for people.
"""
