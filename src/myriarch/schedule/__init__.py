"""Which devices do which work. First slice: the nodes of a run's replica groups."""
