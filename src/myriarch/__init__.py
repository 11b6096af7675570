"""Myriarch: one effective training system out of unlike, unreliable, expensive accelerators.

The packages are layered; `ARCHITECTURE.md` draws the house. Nothing is imported here, so that
`import myriarch` costs nothing: import the package you need (`myriarch.spec`, `myriarch.account`, ...).
"""

__version__ = "0.1.0"
