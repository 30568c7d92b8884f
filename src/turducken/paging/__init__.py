"""Paging structures as data, and the one walker that reads them all."""
