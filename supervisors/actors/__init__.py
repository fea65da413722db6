"""The two kinds of Thespian actor, and no third. Only the node's processes import these modules.

- `birth_record`: what a supervisor hands to the child it forks, through the fork itself
- `report`: the pipe on which a child says "ready" and how it ended
- `offspring`: one living child process of a supervisor, from its fork to its burial
- `server_actor`: hosts one `Server`: uvloop in a side thread; never creates a child
- `supervisor_actor`: hosts one supervisor: one thread; creates children
- `status`: what a supervisor says of itself when it is asked
- `messages`: the two messages of ours that travel by Thespian
- `logs`: every process's lines to one place, without waiting
"""
