"""What a user may set, how it is read and checked, and the errors that everything raises.

Imports nothing of cellsemi but itself: configs <- rounds <- models <- orchestrator.
"""
