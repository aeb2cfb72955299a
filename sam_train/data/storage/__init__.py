"""Bytes on disks, web servers and object stores, and the tars in them."""
