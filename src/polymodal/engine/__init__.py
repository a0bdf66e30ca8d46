"""Requests that join and leave a running batch: one engine for the command line, the server and evaluation."""
