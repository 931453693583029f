"""Measurements that back the choices in the code; each is a module to run."""
