"""What runs inside a worker: the session, the bridge between replica groups, snapshots, the reference trainer.

This is the only package that imports torch, and the modules that need no torch do not import it.
"""
