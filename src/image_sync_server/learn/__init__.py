"""Learns to tell categories of pictures apart, for real and quickly: what both embedded servers train and ask.

It knows pictures and numbers, neither servers nor datasets. It needs the extra ``[server]``.
"""
