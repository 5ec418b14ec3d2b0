"""Turns what lies on the disk into sightings: "this picture, with this content, is ready".

It knows files only: no ledger, no platform, no configuration. Events are hints, the disk is the truth: an event only
says where to look, and everything is looked at again every few minutes whether or not anything was heard.

What it promises:

* Every wanted file below a root that exists and rests is reported once per stamp, however it came to be there and
  whatever events were lost, at the latest one ``rescan`` later.
* Nothing is read while it is being written, as far as the system can tell, and what is hashed is one version of the
  file: its stamp is the same before and after.
* Where annotations are used, a picture and its annotation are one: a change of either is a new sighting, both have to
  rest, and one that is required and not there is reported as awaited.
* Recorded files are reported gone only when the disk says so twice, ``settle`` apart, below a root that is known to
  be the same one. A move is therefore seen as the new place first, the loss of the old one later.
* Symbolic links are ignored, both to files and to folders (a root itself may be one); nothing outside a root is read.
* A root that cannot be looked at, or that is empty at the first look although pictures are recorded below it, is
  unavailable: nothing below it is reported gone. A root emptied while the watcher looks on is believed. Somebody who
  emptied one while no daemon ran shows that it was meant by making a folder in it.
* The same for a share that is mounted inside a root, if it was seen mounted or stands in /etc/fstab: while it is not
  there, what is recorded of it is not reported gone.
"""
