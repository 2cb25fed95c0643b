"""
Try
===

A try.
"""
print(1)
