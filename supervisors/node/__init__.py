"""The node: one process that boots a tree, watches it, boots a fresh one when it breaks, and leaves nothing behind.

- `config`: what a node is told, as a value
- `preload`: what it imports before it forks
- `boot`: one tree, from the admin's fork to the root's birth
- `lookout`: what may end a node from outside: a signal, the end of its owner
- `zygote`: the process itself: boots, watches, tears down
- `__main__`: `python -m supervisors.node`
"""
