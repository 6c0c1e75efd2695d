"""The embedded tasks: word lists, an invented world, and one module per category.

Every task is a ``Spec``: a way to draw inputs and a function from an input to its answer. Tasks
of one input family draw the same inputs and differ only in the function, so that an input never
says which task is meant.
"""
