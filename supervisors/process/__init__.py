"""The law of processes, in code: who may fork, who dies with whom, and who is who.

- `birth`: what holds at and after a fork: death with the parent, fatal signals, single thread, inherited descriptors
- `identity`: a process is its pid, its start time and its run token; only then is it signalled
- `cgroup`: holds together what a server starts, where the machine lets us
- `descendants`: what a subreaper owes: to bury orphans, and to leave nothing behind
- `stopped`: who was stopped by a signal and does not run any more
- `procfs`: the few facts of `/proc` that are needed, read in microseconds
- `counters`: counters that all processes of a node share and that survive any kill
"""
