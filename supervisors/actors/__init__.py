"""The two kinds of Thespian actor, and no third. Only the node's processes import these modules.

- `birth_record`: what a supervisor hands to the child it forks, through the fork itself
- `report`: the pipe on which a child says "ready" and how it ended
- `server_actor`: hosts one `Server`: uvloop in a side thread; never creates a child
- `supervisor_actor`: hosts one supervisor: one thread; creates children
- `messages`: the two messages of ours that travel by Thespian
"""
