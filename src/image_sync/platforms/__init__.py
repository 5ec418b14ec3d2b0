"""Where pictures go and models come from: one folder per vendor behind one protocol, retry as a wrapper."""
