"""The node: one process that boots a tree, watches it, boots a fresh one when it breaks, and leaves nothing behind.

- `config`: what a node is told, as a value
- `boot`: one tree, from the admin's fork to the root's "ready"
- `zygote`: the process itself: preloads, boots, watches, tears down
- `__main__`: `python -m supervisors.node`
"""
