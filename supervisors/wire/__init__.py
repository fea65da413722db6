"""Bytes: the value codec, frames, links, the door of a supervisor, and the secured Thespian system base."""
