"""Measurements that can be believed: candidates in turns, the machine they ran on, limits.  No torch here."""
