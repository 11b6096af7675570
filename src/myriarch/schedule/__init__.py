"""Which devices do which work: the queue of a fleet, gangs on nodes, and the nodes of a run's replica groups."""
