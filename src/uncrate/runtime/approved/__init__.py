"""The package under which the code of approved checkpoints lives: `uncrate.runtime.approved.c<closure hash>.<module>`.

It is a real package so that a name inside it can be imported anywhere: a DataLoader worker or another rank that
unpickles such a class imports this file first, and with it the finder that serves approved bytes. Nothing in this
folder is ever served as checkpoint code: the search path is empty and the finder answers first.
"""

from uncrate.runtime.custom_code import install_finder

__path__ = []
install_finder()
